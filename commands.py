"""The commands for recordings and stores: their options, and what they run.

`COMMANDS` at the end lists them; `cli` builds the parser of the one that was called. `model_commands` has those that
train and run models, `demo` those of the paper's experiments. This module starts without torch.
"""

from __future__ import annotations

import argparse
import csv
import os
import statistics
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from egodistill import annotations, data, files, recordings
from egodistill.video import SAMPLING

__all__ = ["COMMANDS", "describe_store", "given", "imu_of", "positive", "table"]


# ---------------------------------------------------------------------------------------------------------------
# What all commands share


def positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number of at least 1")
    return int(text)


def given(arguments: argparse.Namespace, *names: str) -> dict[str, Any]:
    """Return some of the options as keyword arguments."""
    return {name: getattr(arguments, name) for name in names}


def table(header: list[str], rows: list[list[str]]) -> str:
    """Return columns of text: the first aligned to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    lines = []
    for row in [header, ["-" * width for width in widths], *rows]:
        cells = [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


# ---------------------------------------------------------------------------------------------------------------
# The commands


def segment_options(parser: argparse.ArgumentParser) -> None:
    """Add what the readers of annotations take; `read_segments` reads it."""
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
    """Return how many clips need no more work, and how many there are, for prepare and for each teacher's extract."""
    store = data.ClipStore(path, unfinished=True)
    counts = [count for split in store.counts.values() for count in split.items()]
    found = {"prepare": (sum(n for what, n in counts if what != "missing"), sum(n for _, n in counts))}
    outputs = [name for name in store.names if name.endswith(".logits")]
    return found | {f"extract {n.removesuffix('.logits')}": (int(store.done(n).sum()), len(store)) for n in outputs}


# The name of a command: what adds its options to a parser, and what runs it.
COMMANDS: dict[str, tuple[Callable, Callable]] = {
    "segments": (segments_options, run_segments),
    "check": (check_options, run_check),
    "transcode": (transcode_options, run_transcode),
    "prepare": (prepare_options, run_prepare),
    "status": (status_options, run_status),
}
