"""The commands for recordings and stores: `segments`, `convert`, `check`, `transcode`, `prepare`, `status`.

`options` has their options. This module does not import torch.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import time
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from .. import data
from ..datasets import annotations, table_checks
from ..datasets.segments import (
    CALIBRATION,
    calibration_clips,
    is_list_of_recordings,
    listed_recordings,
    offset_rows,
    subsample,
    with_calibration,
    write_imu_offsets,
)
from ..datasets.store_files import rebuild
from ..recordings import checks, copies
from ..recordings.copies import transcode
from ..recordings.pictures import CHECK_TITLE, draw_check, require_picture
from ..recordings.recording import find_videos, is_neon, probe_videos
from ..support import files
from ..support.defaults import MIN_CALIBRATION_CLIPS, NONE
from ..support.errors import DataError, describe_error
from ..support.names import Names
from ..support.records import first_line
from ..support.tables import Table, pluralize, printable
from ..video import VideoError
from .given import LIMITS, given_flags, imu_files, keyword_arguments, reject, suggest, suggest_training, use_readers
from .options import copies_in
from .paths import Made, check_paths

__all__ = ["describe_store"]


# ---------------------------------------------------------------------------------------------------------------
# The commands


NO_LABELS = "no segment has a label: students learn from a teacher, and `evaluate` reports agreement with it"


def read_segments(a: argparse.Namespace) -> data.SegmentList:
    use_readers(a)
    windows = keyword_arguments(a, "stride", "split_by", "test_share")
    segments = annotations.read_annotations(
        a.annotations,
        a.root,
        seed=a.split_seed,
        min_instances=a.min_instances,
        windows=annotations.Windows(**windows, **keyword_arguments(a, "clip_seconds")) if windows else None,
        clip_seconds=a.clip_seconds,
        tier=a.tier,
    )
    segments = corrected(a, segments)
    segments = subsample(segments, a.subsample) if a.subsample > 1 else segments
    if a.background:
        count = -(-a.background // a.subsample)  # fewer, as of the other classes
        segments = data.with_background(segments, count, sparse=a.sparse, **keyword_arguments(a, "clip_seconds"))
    else:
        reject(given_flags(a, "sparse"), "only with --background, which takes clips between segments")
    clip_seconds = a.clip_seconds or data.CLIP_SECONDS
    return with_calibration(segments, a.calibration_share, clip_seconds) if a.calibration_share else segments


def corrected(a: argparse.Namespace, segments: data.SegmentList) -> data.SegmentList:
    """Return segments with the axes and clocks of --imu-axes and --imu-offsets."""
    segments = annotations.with_imu_axes(segments, a.imu_axes) if a.imu_axes else segments
    return annotations.with_imu_offsets(segments, a.imu_offsets) if a.imu_offsets else segments


def held_out(a: argparse.Namespace, segments: data.SegmentList) -> str:
    """Return which clips are for calibration alone, or that these would be too few."""
    if count := calibration_clips(segments, a.clip_seconds or data.CLIP_SECONDS):
        of = pluralize(len({one.path for one in segments if one.split == CALIBRATION}), "recording")
        return f"{pluralize(count, 'clip')} of {of} are held out: no model learns from them, they decide how sure it is"
    return (
        f"nothing is held out to fit a temperature: {100 * a.calibration_share:g} % of the training wearers or "
        f"recordings have fewer than {MIN_CALIBRATION_CLIPS} labelled clips, or there are too few of them"
    )


def run_segments(a: argparse.Namespace) -> None:
    segments = read_segments(a)
    splits = sorted({segment.split for segment in segments})
    rows, what = [], "videos" if all(segment.video for segment in segments) else "recordings"
    for split in splits:
        part = [segment for segment in segments if segment.split == split]
        lengths = sorted(segment.stop - segment.start for segment in part)
        rows.append(
            [
                split,
                f"{len({s.path for s in part})}",
                f"{len(part):,}",
                files.clock(seconds_of(part)),
                f"{statistics.median(lengths):.2f}",
                f"{lengths[0]:.2f} to {lengths[-1]:.2f}",
                f"{len({s.label for s in part if s.label is not None})}",
            ]
        )
    print(Table(["split", what, "segments", "h:mm:ss", "median s", "shortest, longest", "classes"], rows).text())
    counts = {split: Counter(s.label for s in segments if s.split == split) for split in splits}
    total = Counter(segment.label for segment in segments)
    largest = total.most_common(a.classes)
    rows = [[name or "(no label)", *(f"{counts[split][name]:,}" for split in splits)] for name, _ in largest]
    print("\n" + Table(["class", *splits], rows).text())
    if len(total) > len(largest):
        print(f"... and {len(total) - len(largest)} more classes (--classes N lists more)")
    for reason, count in segments.dropped.items():
        print(f"left out, {reason}: {pluralize(count, 'segment')}")
    for warning in split_warnings(counts, "segment"):
        print(f"warning: {warning}")
    if set(total) == {None}:
        print(NO_LABELS)
    examine(segments, a.strict, **keyword_arguments(a, "clip_seconds"))
    if a.strict:
        require_training(a, segments)


def examine(segments: data.SegmentList, strict: bool = False, clip_seconds: float = data.CLIP_SECONDS) -> None:
    """Warn of what looks wrong in a table, then raise DataError for what is: before anything is decoded."""
    found = table_checks.find(segments, headers_of(segments), clip_seconds=clip_seconds)
    for one in found:
        if not (one.is_error or strict):
            warnings.warn(one.text, table_checks.TableWarning, stacklevel=2)
    table_checks.notes_of(found, strict=strict)


FEW = 10  # labelled training clips of a class
FEW_UNLABELLED = 50  # training clips: the fewest that lab/few_clips.py trains on


def split_warnings(counts: Mapping[str, Counter], what: str = "clip") -> Iterator[str]:
    """Yield which splits are missing or small, from {split: {label, or None: count}}; `what` is counted."""
    if counts and not {"train", "test"} & set(counts):
        yield f"there is no split train and no split test, only {', '.join(sorted(counts))}"
    elif counts and "train" not in counts:
        yield f"there is no split train, so students cannot learn from these {what}s; give some the split train"
    elif counts and "test" not in counts:
        way_out = "add recordings, or give some the split test (in a column split of your own table)"
        yield f"there is no split test, so nothing is left to evaluate on; {way_out}"
    labels = {label: count for label, count in counts.get("train", {}).items() if label != NONE}
    unlabelled = labels.pop(None, 0)
    if not labels and 0 < unlabelled < FEW_UNLABELLED:
        yield (
            f"few for a student: {pluralize(unlabelled, f'training {what}')}, without labels; record more, or take "
            f"more clips of each recording (a smaller --stride)"
        )
    if labels and sum(labels.values()) < FEW * len(labels):
        yield (
            f"few for a student: {pluralize(sum(labels.values()), f'training {what}')} with a label, for "
            f"{pluralize(len(labels), 'class')}. In a rendered world of 5 classes, a student had 27 % with 10 clips a "
            f"class and 50 % with 160; label more, or let a teacher label clips (`egodistill extract`)"
        )


def require_training(a: argparse.Namespace, segments: data.SegmentList) -> None:
    """Raise DataError if no segment is for training."""
    if not any(segment.split == "train" for segment in segments):
        others = ", ".join(sorted({segment.split for segment in segments}))
        raise DataError(f"{a.annotations}: no segment has the split train, only {others}; give some the split train")


def headers_of(segments: data.SegmentList) -> dict[str, data.VideoInfo]:
    """Return the headers of the videos of your own table; those of public data sets are read by `prepare` alone."""
    return probe_videos(segments if segments.origin.rows else (), files.available_cores())


def seconds_of(segments: Sequence[data.Segment]) -> float:
    """Return the seconds of video in segments; parts that several segments share count once."""
    seconds = 0.0
    ends: dict[str, float] = {}
    for segment in sorted(segments, key=lambda segment: segment.start):
        end = ends.get(segment.path, 0.0)
        seconds += max(0.0, segment.stop - max(segment.start, end))
        ends[segment.path] = max(end, segment.stop)
    return seconds


def recordings_to_check(a: argparse.Namespace) -> dict[str, str | data.Recording]:
    """Return what `check` examines, {name: path or recording}: videos, folders of a Neon, recordings of a table.

    A file that is given twice is examined once, under its first name.
    """
    sources: dict[str, str | data.Recording] = {}
    own = Names()
    for name in a.videos:
        if name.lower().endswith(".csv") and is_list_of_recordings(first_line(Path(name))):
            reject(given_flags(a, "root"), f"{name}: the paths of your own table are relative to its folder")
            sources |= {own(recording.path): recording for recording in listed_recordings(name)}
        elif name.lower().endswith((".csv", ".json", ".tsv", ".txt", ".eaf")):
            segments = annotations.read_annotations(name, a.root, tier=a.tier)
            examine(segments)
            sources |= {own(one.path): one.recording for one in segments}
        elif Path(name).is_dir() and not is_neon(Path(name)):
            sources |= {own(video): video for video in find_videos(name)}
        else:
            sources[own(name)] = name
    if not a.videos:
        alone = data.open_recording(None, imu_files(a))
        return {alone.path: alone}
    if a.imu and (len(a.videos) > 1 or list(sources) != a.videos):
        raise ValueError("--imu is for a single video, not several, a folder or a table; list them in a table instead")
    return sources


def run_check(a: argparse.Namespace) -> None:
    found = check_recordings(a)
    if unusable := sum(one.problem is not None for one in found):
        raise ValueError(f"{unusable} of {len(found)} recordings cannot be used")


def check_recordings(a: argparse.Namespace) -> list[checks.Check]:
    """Check recordings, print what was found, write it to --out, and return it.

    Raise DataError, after that, if the recordings of one camera do not have the same axes.
    """
    if a.no_offset:
        reject(given_flags(a, "max_offset", "out"), "--no-offset estimates no offset; leave out one of them")
    use_readers(a)
    sources = recordings_to_check(a)
    opened = [source.files if isinstance(source, data.Recording) else (source,) for source in sources.values()]
    pictures = picture_files(a, len(sources))
    a.pictures = [Made(picture, (CHECK_TITLE.encode(),)) for picture in pictures]
    check_paths(a, itertools.chain(*opened))
    if a.out and not a.overwrite:
        offset_rows(Path(a.out))  # an error now, and not after the measurements
    search = {} if a.max_offset is None else {"max_offset": a.max_offset}
    print(checks.HEADER)
    offsets: dict[str, float | None] = {}
    axes: dict[str, str] = {}
    results: list[checks.Check] = []
    for video, recording in sources.items():
        try:
            if isinstance(recording, data.Recording):
                recording = data.find_imu(recording)
            else:
                recording = data.open_recording(recording, imu_files(a))
            clock = recording.imu_offset + a.imu_offset
            recording = replace(recording, imu_axes=a.imu_axes or recording.imu_axes, imu_offset=clock)
            found = checks.check(recording, offset=not a.no_offset, **search)
        except (DataError, VideoError) as error:  # continue with the other recordings
            found = checks.Check(video, problem=str(error))
        print(found.row())
        results.append(found)
    results, disagreements = checks.by_camera(results)
    for number, (video, found) in enumerate(zip(sources, results, strict=True)):
        if found.axes_state:
            print(found.axes_row())
        if pictures:
            print(found.report())
            if found.rates:
                print(f"  {draw_check(found, pictures[number])}")
        is_reliable = found.offset is not None and found.offset.reliable
        if is_reliable or found.right_axes:
            if a.out and not is_utf8(video):
                print(f"  - not written to {a.out}: the path is not UTF-8, as a table must be")
                continue
            offsets[video] = a.imu_offset + (found.offset.seconds if is_reliable else 0.0)
            axes |= {video: found.right_axes} if found.right_axes else {}
        elif found.problem is None:
            offsets[video] = None
    if states := Counter(found.axes_state for found in results if found.axes_state):
        print(f"axes: {', '.join(f'{count} {state}' for state, count in states.items())}")
        if len(turns := {*axes.values()}) == 1 and states["undecided"] and not states["ok"]:
            print(f"  if one camera recorded all: --imu-axes {min(turns)}")
    if a.out:
        kept = write_imu_offsets(a.out, offsets, axes, overwrite=a.overwrite)
        known = [one.offset for video, one in zip(sources, results, strict=True) if video in offsets]
        reliable = sum(offset is not None and offset.reliable for offset in known)
        print(f"{a.out}: {reliable} of {len(sources)} recordings have a reliable offset")
        for clause in kept:
            print(f"  {clause}; --overwrite replaces it")
    if disagreements:
        raise DataError("; ".join(disagreements))
    return results


def picture_files(a: argparse.Namespace, count: int) -> list[Path]:
    """Return the file of each recording's picture; without --plot none. Raise DataError if none can be drawn."""
    if not a.plot:
        return []
    require_picture(a.plot)
    path = Path(a.plot)
    numbers = [""] if count == 1 else [f"-{number + 1}" for number in range(count)]
    return [path.with_name(f"{path.stem}{number}{path.suffix}") for number in numbers]


def is_utf8(path: str) -> bool:
    """Return whether a path can be written into a UTF-8 table; Python marks other bytes with surrogates."""
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return True


def run_convert(a: argparse.Namespace) -> None:
    if len({Path(name).stem for name in a.recordings}) < len(a.recordings):
        raise ValueError(
            f"two recordings have the same file name, so their videos in {a.out} would too; use two folders"
        )
    rows, videos, failures = [], [], []
    for recording in a.recordings:
        video, table = copies.converted_files(recording, a.out)
        if video.is_file() and table.is_file() and not a.overwrite:
            print(f"{video} and {table.name} already exist; --overwrite replaces them")
            continue
        try:
            made = copies.convert(recording, a.out, size=a.size, overwrite=a.overwrite)
        except (ValueError, OSError) as error:  # Continue with the other recordings.
            failures.append(describe_error(error))
            continue
        videos.append(made.video)
        names = [Path(made.video).name, Path(made.imu).name]
        rows.append([*names, f"{made.frames:,}", f"{made.samples:,}", f"{made.seconds:.2f}"])
        for note in made.notes:
            print(f"{recording}: {note}")
    if rows:
        print(f"{a.out}:\n{Table(['video', 'IMU table', 'frames', 'samples', 'seconds'], rows).text()}")
        suggest("check", *videos)
    if failures:
        raise ValueError("; ".join(failures))


def run_transcode(a: argparse.Namespace) -> None:
    out, copies = Path(a.out), copies_in(a.out, a.videos)
    out.mkdir(parents=True, exist_ok=True)
    if len(set(copies.values())) < len(copies):
        raise ValueError(f"two videos have the same file name, so their copies in {out} would too; use two folders")
    rows, failures = [], []
    for video, copy in copies.items():
        if copy.exists() and not a.overwrite:
            print(f"{copy} already exists; --overwrite replaces it")
            continue
        try:
            made = transcode(
                video, copy, **keyword_arguments(a, "short_side", "keyframe_every", "quality", "measure", "overwrite")
            )
        except (DataError, OSError) as error:  # Continue with the other videos.
            failures.append(describe_error(error))
            continue
        speed = f"{made.speedup:.1f}" if made.speedup else "-"
        sizes = [f"{size / 1e6:.1f}" for size in (made.source_bytes, made.copy_bytes)]
        rows.append([copy.name, *sizes, f"{made.frames:,}", f"{made.broken_packets}", speed])
        for name in made.left_out:
            print(f"{copy}: left out {name}, which MP4 cannot hold")
        if beside := tables_of(video):
            print(f"note: {copy}: its IMU stays with the original; copy {' and '.join(beside)} beside it")
    if rows:
        print(Table(["copy", "MB before", "MB after", "frames", "broken packets", "times faster"], rows).text())
        suggest("check", a.out)
    if failures:
        raise ValueError("; ".join(failures))


def tables_of(video: str) -> list[str]:
    """Return the names of the files beside a video from which its IMU samples are read."""
    try:
        found = data.open_recording(video)
    except (DataError, OSError, ValueError):  # such as a video without IMU
        return []
    return [Path(file).name for file in found.files if file != found.video]


def run_prepare(a: argparse.Namespace) -> None:
    if a.no_imu:
        reason = "--no-imu stores no head motion; leave out one of them"
        unused = ("imu_rate", "zero_accel", "min_coverage", "max_gap", "imu_axes", "imu_offsets", "imu_reader")
        reject(given_flags(a, *unused), reason)
    if a.no_frames:
        unused = ("key_frames", "tolerance", "end_features", "no_imu")
        reject(given_flags(a, *unused), "--no-frames stores head motion alone; leave out one of them")
    segments, one_pass = read_segments(a), {}
    given = keyword_arguments(a, "batch_size", "precision", "device")
    if not (a.teacher_file or a.pretrained or a.end_features):
        reason = "only with --teacher-file, --pretrained or --end-features, which run a model in the same pass"
        reject(given_flags(a, *given), reason)
    if not a.end_features:
        reject(given_flags(a, "image_encoder"), "only with --end-features, which runs it in the same pass")
    if not a.pretrained:
        reject(given_flags(a, "class_names"), "only with --pretrained, whose classes it names")
    if a.teacher_file or a.architecture or a.pretrained or a.end_features:
        from . import training

        one_pass = training.one_pass(a, given)
    reject([] if a.clip_frames else given_flags(a, "clip_size"), "only with --clip-frames")
    store = data.prepare(
        segments,
        a.out,
        num_frames=() if a.no_frames else tuple(a.num_frames),
        ends=not a.no_frames,
        frame_size=a.frame_size,
        imu=not a.no_imu,
        sampling=a.sampling,
        exact=not a.key_frames,
        tolerance=a.tolerance or 0.0,
        strict=a.strict,
        **keyword_arguments(a, "clip_frames", "clip_size", "clip_seconds", "imu_rate"),
        **keyword_arguments(a, *LIMITS, "workers", "max_bad", "retry_failed"),
        **one_pass,
        **files.environment_share(),  # Several machines or processes of torchrun share the recordings.
    )
    if files.environment_share()["rank"] == 0:
        describe_store(store, segments)
        if a.calibration_share:
            print(f"  note: {held_out(a, segments)}")
        suggest_training(store, architecture=a.architecture)


def describe_store(store: data.ClipStore, segments: data.SegmentList) -> None:
    """Print what a store holds, and what was left out or failed."""
    counts = Counter(clip["split"] for clip in store.clips)
    splits = ", ".join(f"{n} {split}" for split, n in sorted(counts.items()))
    what = "video" if all(segment.video for segment in segments) else "recording"
    videos, classes = pluralize(len({s.path for s in segments}), what), pluralize(len(store.class_names), "class")
    print(
        f"{store.path}: {pluralize(len(store), 'clip')} ({splits}) from {videos}, {files.clock(seconds_of(segments))} "
        f"in segments, {classes}"
    )
    for reason, count in segments.dropped.items():
        print(f"  left out, {reason}: {pluralize(count, 'segment')}")
    if all(segment.label is None for segment in segments):
        print(f"  {NO_LABELS}")
    missing = sum(count["missing"] for count in store.counts.values())
    labels = {split: Counter(clip["label"] for clip in store.clips if clip["split"] == split) for split in counts}
    for warning in split_warnings({} if missing else labels):
        print(f"  warning: {warning}")
    describe_choice(store)
    if missing:
        clips_missing = pluralize(missing, "clip")
        print(f"  missing: {clips_missing}, the shares of other processes; `egodistill status` shows their progress")
    for failure in store.failures[:10]:
        print(printable(f"  failed: {failure['id']} at {failure['start']:.2f} s: {failure['reason']}"))
    if len(store.failures) > 10:
        print(f"  ... and {len(store.failures) - 10} more in {store.path / 'failures.jsonl'}")
    for source, notes in list(store.notes.items())[:10]:
        print(f"  note: {source}: {'; '.join(notes)}")
    if len(store.notes) > 10:
        print(f"  ... and {len(store.notes) - 10} more in {store.path / 'notes.jsonl'}")


def describe_choice(store: data.ClipStore) -> None:
    """Print how far frames are from their times if they are not exact ones."""
    for name, spec in store.specs.items():
        if len(store) and spec.frames and (spec.tolerance or not spec.exact):
            errors = store.time_errors(name)
            print(f"  {name}: frames are {errors.mean():.3f} s from their times, at most {errors.max():.3f} s")


def report_damage(store: data.ClipStore) -> None:
    """Print which rows of which arrays are damaged. Raise DataError for damage."""
    whole, verified, damaged = store.everything().clips, [], []
    for name, rows in store.verify():
        verified.append(name)
        if rows:
            damaged.append(name)
            some = ", ".join(f"{row} ({whole[row]['id']} at {whole[row]['start']:.2f} s)" for row in rows[:5])
            print(f"damaged: {name}: {len(rows)} of {len(whole)} rows: {printable(some)}{', ...' if rows[5:] else ''}")
    if damaged:
        raise DataError(
            f"{store.path}: rows of {', '.join(damaged)} differ from their checksums: files were damaged, replaced, or "
            f"not copied to the end. Copy the store again; or compute the outputs of a teacher again (extract "
            f"--overwrite), or prepare the clips into another folder"
        )
    print(f"verified: {', '.join(verified)}")


def run_status(a: argparse.Namespace) -> None:
    if a.rebuild:
        print(f"{a.store}: an index of {pluralize(rebuild(a.store), 'clip')} was made of its shards")
    store, before = data.ClipStore(a.store, unfinished=True), finished_clips(a.store)
    counts = store.counts
    rows = [[split, *map(str, n.values())] for split, n in counts.items()]
    print(Table(["split", "ok", "failed", "missing"], rows).text())
    reasons = Counter(failure["reason"].replace(failure["video"], "VIDEO") for failure in store.failures)
    for reason, count in reasons.most_common(10):
        print(f"failed: {pluralize(count, 'clip')}, {printable(reason)}")
    if len(reasons) > 10:
        print(f"... and {len(reasons) - 10} more reasons in {store.path / 'failures.jsonl'}")
    describe_choice(store)
    print("; ".join(f"{pluralize(count, 'shard')} {state}" for state, count in store.shards.items()))
    time.sleep(a.seconds)
    rows = []
    for name, (done, total) in finished_clips(a.store).items():
        speed = (done - before.get(name, (0, 0))[0]) / a.seconds
        remaining = files.clock((total - done) / speed) if speed > 0 else "-"
        rows.append([name, f"{done:,} of {total:,}", f"{speed:.1f}" if speed > 0 else "-", remaining])
    print("\n" + Table(["step", "clips", "clips per second", "time left"], rows).text())
    if any(n["missing"] for n in counts.values()):
        print("Run the same `egodistill prepare` command again to continue.")
    if a.sweep:
        print(f"swept: {store.sweep() / 1e6:,.1f} MB")
    if a.verify:
        report_damage(store)


def finished_clips(path: str) -> dict[str, tuple[int, int]]:
    """Return (finished clips, all clips) of `prepare` and of the `extract` of each teacher."""
    store = data.ClipStore(path, unfinished=True)
    counts = [count for split in store.counts.values() for count in split.items()]
    found = {"prepare": (sum(n for what, n in counts if what != "missing"), sum(n for _, n in counts))}
    outputs = [name for name in store.names if name.endswith(".logits")]
    return found | {f"extract {n.removesuffix('.logits')}": (int(store.done(n).sum()), len(store)) for n in outputs}
