"""The command `evaluate --recordings`: events on whole labelled recordings, and thresholds chosen on them.

    egodistill evaluate --recordings store --student student.safetensors                       # of the split test
    egodistill evaluate --recordings store --student student.safetensors --split calibration --save-thresholds

A store has the clocks and axes of its clips; a table needs --imu-offsets and --imu-axes, as for `prepare`. Labels say
what happens, not where somebody has looked: a recording is measured from the first to the last of its segments. Time
between them that no segment covers is background.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import sys
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .. import data, inference
from ..datasets import annotations
from ..datasets.background import require_dense, room
from ..datasets.store_files import StoreFiles
from ..deploy import events, segmentation
from ..engine import calibration, checkpoints
from ..imu import IMUError
from ..support import files, intervals, tables
from ..support.errors import DataError
from ..support.tables import Table, pluralize
from ..video import VideoError
from .evaluations import MIN_WEARERS
from .given import given_flags, keyword_arguments, note_single_inputs, note_thresholds, reject, use_readers
from .loading import load_student, load_teacher, report_precision
from .recordings import corrected, examine

__all__ = [
    "about_recordings",
    "evaluate_recordings",
    "note_unknown_classes",
    "read_numbers",
    "recordings_of",
    "tables_of",
]

FORMAT = "egodistill evaluation of recordings 1"  # of the file of `evaluate --recordings --out`
# {split on which no thresholds are chosen: why}
UNFIT = {"train": "on what it learned from, a model is too sure"}
UNFIT |= dict.fromkeys(("test", "all"), "what is chosen on the test says nothing there")
NAME = 40  # characters of a class in a table


def note_unknown_classes(table: str, segments: Sequence[data.Segment], classes: Sequence[str] | None) -> None:
    """Print on stderr which labels of a table are no class of the student."""
    if classes and (unknown := sorted({str(one.label) for one in segments if not one.is_background} - {*classes})):
        listed = ", ".join(map(tables.printable, unknown[:5]))
        print(f"note: {table}: the student has no class {listed}; its answers there count as wrong", file=sys.stderr)


def labelled_recordings(a: argparse.Namespace) -> dict[str, tuple[list[data.Segment], tuple[float, float]]]:
    """Return {recording: (its segments of --split, their first and last second)} of --recordings.

    Recordings are left out that have segments of other splits between them, or some without a label. Raise DataError if
    none is left, or if what no segment covers may be more than background.
    """
    if Path(a.recordings, "store.json").exists():
        reject(given_flags(a, "imu_axes", "imu_offsets"), "a store has those with which it was made; leave them out")
        store = StoreFiles(a.recordings)
        if store.left_out and not a.sparse:
            raise DataError(
                f"{a.recordings}: it lacks rows of its table (--subsample, --tier, rare classes), or does not say "
                f"whether, so what no segment covers may be no background; give the table, or --sparse to insist"
            )
        segments = data.SegmentList(store.segments)
    else:
        segments = corrected(a, annotations.read_annotations(a.recordings, a.root, tier=a.tier))
        examine(segments)
    found, rows = {}, [*segments, *(dataclasses.replace(one, label=None) for one in segments.origin.left_out)]
    paths = dict.fromkeys(one.path for one in segments if a.split in (one.split, "all"))
    for path in paths:
        own = [one for one in segments if one.path == path and a.split in (one.split, "all")]
        span = min(one.start for one in own), max(one.stop for one in own)
        inside = [one for one in rows if one.path == path and one.start < span[1] and span[0] < one.stop]
        if all(one.label and a.split in (one.split, "all") for one in inside):
            found[path] = own, span
    if mixed := len(paths) - len(found):
        why = f"rows of another split or tier, or without a class, between the segments of the split {a.split}"
        print(f"note: left out {pluralize(mixed, 'recording')} with {why}", file=sys.stderr)
    if not found:
        splits = ", ".join(sorted({one.split for one in segments}))
        raise DataError(
            f"{a.recordings}: no recording has segments of the split {a.split} without rows of another split or tier, "
            f"or without a class, between them; its segments have the splits {splits}: give one of them (--split)"
        )
    if not a.sparse:
        rooms = {path: room(own, *span, 0.0, span[1] - span[0]) for path, (own, span) in found.items()}
        require_dense(rooms, segments.origin)
    return found


def require_choice(a: argparse.Namespace) -> None:
    """Raise ValueError if --save-thresholds cannot choose or write thresholds."""
    reject(["--save-thresholds"] * bool(a.teacher_file), "only with --student, whose file gets them")
    reject(["--event-start"] * (a.event_start is not None), "not with --save-thresholds, which chooses it")
    reject(given_flags(a, "without"), "not with --save-thresholds, which are those of a student with all its inputs")
    if a.split in UNFIT:
        raise ValueError(f"--save-thresholds: {UNFIT[a.split]}; give recordings of another split (--split calibration)")
    if not os.path.isfile(a.student):
        raise ValueError(
            f"--save-thresholds: {a.student} ships with the library; give a copy, such as that of "
            f"EgoDistill.load({a.student!r}).save('mine.safetensors')"
        )
    files.require_writable(a.student)


def answers_of(a: argparse.Namespace, model: Any, every: float, top: int) -> dict[str, segmentation.Answered]:
    """Return {recording: what the model answers on it}, of those of --recordings that can be read."""
    recordings, answered = labelled_recordings(a), {}
    segments = [one for own, _ in recordings.values() for one in own]
    note_unknown_classes(a.recordings, segments, getattr(model, "class_names", None))
    options = {"stride": every, "top": top, **keyword_arguments(a, "precision", "compile", "device")}
    with files.Progress("recordings", len(recordings), unit="recordings") as bar:
        for path, (own, span) in recordings.items():
            bar.step()
            try:
                found = [*inference.predict(model, own[0].recording, **options)]
            except (IMUError, VideoError) as error:
                print(f"note: left out: {error}", file=sys.stderr)
            else:
                answered[path] = segmentation.Answered(found, own, span)
                note_single_inputs(path, found, getattr(model, "inputs", ()))
    if not answered:
        raise DataError(f"{a.recordings}: no recording could be read, for the reasons above")
    return answered


def evaluate_recordings(a: argparse.Namespace) -> None:
    """Print and write what the events of whole recordings are worth; with --save-thresholds, choose them first."""
    if a.save_thresholds:
        require_choice(a)
    use_readers(a)
    model: Any = load_student(a.student, a.custom, a.without) if a.student else load_teacher(a.teacher_file)
    before = calibration.calibration_of(model)
    tracker, every, whose = events.choose_tracker(before.events, a.stride, a.event_start)
    report_precision(a.precision, a.device)
    answered = answers_of(a, model, every, segmentation.TOP if a.save_thresholds else tracker.top)
    if a.save_thresholds:
        if saved := segmentation.best_thresholds([*answered.values()], every):
            tracker, every, whose = events.choose_tracker(saved)
        else:
            print("note: no thresholds are saved, since with none of them an event matches a segment by half")
        if saved not in (None, before.events):  # else the file stays older than what was measured of it
            model.calibration, old = dataclasses.replace(before, events=saved), os.stat(a.student)
            checkpoints.save_model(model, a.student)
            os.utime(a.student, ns=(old.st_atime_ns, old.st_mtime_ns))  # evaluations of these weights hold
            print(f"thresholds saved in {a.student}")
    note_thresholds(tracker, whose)
    numbers = {"format": FORMAT, "split": a.split, "model": "student" if a.student else "teacher"}
    numbers |= {"without": a.without} if a.without else {}
    numbers |= numbers_of(answered, tracker, every)
    print("\n\n".join([textwrap.fill(about_recordings(numbers), 100), *(one.text() for one in tables_of(numbers))]))
    if a.out:
        files.write_json(a.out, numbers)


def numbers_of(answered: Mapping[str, segmentation.Answered], tracker: events.Tracker, every: float) -> dict[str, Any]:
    """Return what the events of answers are worth, for JSON: all together, by wearer, by class and by recording."""
    thresholds, total, rows = dataclasses.asdict(tracker), segmentation.Score(), list[dict[str, Any]]()
    by_wearer = dict[str, segmentation.Score]()
    for path, (answers, own, span) in answered.items():
        found, wearer = [*events.events(answers, **thresholds)], getattr(own[0], "wearer", None)
        score = segmentation.score_events(found, own, span)
        total += score
        if wearer:
            by_wearer[wearer] = by_wearer.get(wearer, segmentation.Score()) + score
        lost = sum(not one.classes for one in answers)
        about = {"recording": path, "wearer": wearer, "from": span[0], "to": span[1], "skipped_clips": lost}
        rows.append(about | {"numbers": score.numbers(), "events": [one._asdict() for one in found]})
    return {
        "thresholds": thresholds | {"stride": every},
        "seconds": total.counts["seconds"],
        "labelled_seconds": total.counts["seconds"] - total.counts["background"],
        "numbers": total.numbers(),
        "by_wearer": {wearer: score.numbers() for wearer, score in sorted(by_wearer.items())},
        "by_class": total.by_class(),
        "recordings": rows,
    }


def recordings_of(model: str | os.PathLike) -> Path:
    """Return the path beside a model, STEM.safetensors, where `train` writes what it is worth on recordings."""
    return Path(model).with_suffix(".recordings.json")


def read_numbers(path: Path, model: Path | None = None) -> dict[str, Any] | None:
    """Return what `evaluate --recordings --out` wrote; None if it is missing, or not of the model as it is."""
    since = model.stat().st_mtime if model is not None and model.exists() else 0.0
    found = files.read_json(path) if path.exists() and path.stat().st_mtime >= since else None
    is_ours = isinstance(found, dict) and found.get("format") == FORMAT and not (model and "without" in found)
    return found if is_ours else None


def about_recordings(numbers: Mapping[str, Any]) -> str:
    """Return what was measured, and how."""
    count, wearers = len(numbers["recordings"]), len(numbers["by_wearer"])
    who = pluralize(count, "recording") + (f" of {pluralize(wearers, 'wearer')}" if wearers else "")
    share = numbers["labelled_seconds"] / numbers["seconds"]
    what = f"{files.clock(numbers['seconds'])} from the first to the last segment of each, {share:.0%} of it labelled"
    lost = sum(one["skipped_clips"] for one in numbers["recordings"])
    skipped = f"; {pluralize(lost, 'clip')} could not be classified" if lost else ""
    return f"{who}: {what}; an answer every {numbers['thresholds']['stride']:g} s{skipped}"


def tables_of(numbers: Mapping[str, Any]) -> list[Table]:
    """Return the tables of what `evaluate --recordings` found: all recordings, and by class."""
    wearers, rows = [*numbers["by_wearer"].values()], []
    for key, name in segmentation.METRICS.items():
        highest = 100 if name.endswith("(%)") else np.inf
        rows.append([name, shown(numbers["numbers"][key]), over_wearers([one[key] for one in wearers], highest)])
    found = [Table(["events", "all recordings", f"mean of {pluralize(len(wearers), 'wearer')}, 95 % interval"], rows)]
    rows = [
        [name[:NAME], str(one["segments"]), str(one["events"]), shown(one["f1_50"]), shown(one["time_right"])]
        for name, one in numbers["by_class"].items()
    ]
    return [*found, Table(["class", "segments", "events", "F1@50 (%)", "time right (%)"], rows)]


def over_wearers(values: Sequence[float | None], highest: float) -> str:
    """Return the mean with its 95 % interval, "too few" or "-"."""
    known = [value for value in values if value is not None]
    if len(known) < MIN_WEARERS:
        return "too few" if known else "-"
    if np.ptp(known) == 0:
        return f"{known[0]:.1f} each"
    low, high = np.clip(intervals.of_mean(known), 0, highest)
    return f"{np.mean(known):.1f} ({low:.1f} to {high:.1f})"


def shown(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"
