"""The commands for trained models: `evaluate`, `export`, `measure` and `predict`."""

from __future__ import annotations

import argparse
import contextlib
import csv
import io
import itertools
import json
import sys
import textwrap
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from types import MappingProxyType
from typing import Any, TextIO

import numpy as np
import torch
from torch import nn

from .. import data, inference
from ..datasets import annotations, table_checks
from ..datasets.segments import is_list_of_recordings
from ..deploy import events, export
from ..engine import batches, calibration
from ..engine.published import GMACS_NOTE
from ..engine.refusal import known_names
from ..recordings.copies import transcode
from ..recordings.recording import probe_videos
from ..support import files, tables
from ..support.defaults import NONE
from ..support.errors import DataError
from ..support.names import is_same, name_files
from ..support.records import first_line
from ..support.tables import Table
from .evaluations import EVALUATION, Result, caveat_about, evaluated
from .given import (
    given_flags,
    imu_files,
    keyword_arguments,
    note_single_inputs,
    note_thresholds,
    reject,
    report_notes,
    single_input_text,
    teachers_in,
    use_readers,
)
from .loading import (
    chosen_teacher,
    load_distilled,
    load_student,
    load_teacher,
    open_split,
    report_precision,
    without_background,
)
from .pages import write_prediction, write_subtitles
from .paths import check_paths
from .whole_recordings import evaluate_recordings, note_unknown_classes

__all__ = ["comparison_table"]

NOT_JSON = "{command} writes JSON; give a name that ends in {ends}"
PREVIEW = 360  # pixels of the shorter side
FEW_EQUAL, LARGE_ERROR = 0.9, 0.1  # share of labels, and of the largest feature: int8 is far from fp32


# ---------------------------------------------------------------------------------------------------------------
# Stores and model files


def inference_arguments(arguments: argparse.Namespace) -> dict[str, Any]:
    return keyword_arguments(arguments, "precision", "compile", "device")


# ---------------------------------------------------------------------------------------------------------------
# Evaluation


def run_evaluate(a: argparse.Namespace) -> None:
    if not a.student:
        reject(given_flags(a, "without"), "only with --student")
    if a.recordings:
        reject(["STORE"] * bool(a.store) + given_flags(a, "teacher"), "not with --recordings, which takes no clips")
        return evaluate_recordings(a)
    if not a.store:
        raise ValueError("there is nothing to evaluate on; give a clip store, or --recordings TABLE")
    reading = "root", "tier", "imu_offsets", "imu_axes", "reader", "imu_reader"
    flags = given_flags(a, *reading, "stride", "event_start", "sparse", "save_thresholds")
    reject(flags, "only with --recordings")
    store = open_split(a.store, a.split)
    model = load_student(a.student, a.custom, a.without) if a.student else load_teacher(a.teacher_file)
    report_precision(a.precision, a.device)
    kind = "student" if a.student else "teacher"
    numbers: dict[str, Any] = {"format": EVALUATION, "split": a.split, "model": kind, "class_names": store.class_names}
    numbers |= {"without": a.without} if a.without else {}
    unlabelled = np.asarray(store.labels) < 0
    if not unlabelled.all():
        given = store.select(~unlabelled) if unlabelled.any() else store
        labelled = in_classes_of(a, model, given)
        numbers |= {"class_names": labelled.class_names, "background": batches.background_of(labelled)}
        numbers |= baselines_of(given)
        if trained := getattr(model, "trained_with", None):
            numbers["trained"] = {"clips": trained["about"].get("clips", 0), "epochs": len(trained["history"])}
        numbers |= evaluate_labelled(a, model, labelled)
        result = Result(evaluated(numbers), numbers)
        for text in filter(None, (result.calibration_text, "; ".join(map(": ".join, result.baselines)), result.caveat)):
            print(tables.printable(text))
    if unlabelled.any() and numbers["class_names"] != store.class_names:
        left_out = tables.pluralize(int(unlabelled.sum()), "clip")
        print(f"note: left out {left_out} without a label, because a teacher in this store has other classes")
    elif unlabelled.any() and "top1" in numbers and not (a.teacher or has_teacher(model, store)):
        print(f"note: {unlabelled.sum()} clips have no label and are left out: there is no teacher to compare with")
    elif unlabelled.any():
        numbers["agreement"] = evaluate_unlabelled(a, model, store.select(unlabelled))
    if a.out:
        files.write_json(a.out, numbers)


def has_teacher(model: nn.Module, store: data.ClipStore) -> bool:
    """Return whether a teacher in the store has features of a model's size; of labels alone it may have learned any."""
    size, widths = getattr(model, "feature_dim", None), set[int]()
    for name in teachers_in(store):
        written = store.select(store.done(f"{name}.feature"))
        widths |= {written.read(f"{name}.feature", [0]).shape[1]} if len(written) else set()
    return bool(widths) and (size is None or len(widths) > 1 or size in widths)


def in_classes_of(a: argparse.Namespace, model: nn.Module, store: data.ClipStore) -> data.ClipStore:
    """Return clips in the model's classes, such as those of later recordings that have only some of them.

    Raise DataError for a label that the model does not know.
    """
    known, given = getattr(model, "class_names", None), a.student or a.teacher_file
    if known is None or list(known) == store.class_names:
        return store
    if (
        not a.student
        and batches.background_of(model) is None
        and (left := len(store) - len(kept := without_background(store)))
    ):
        print(f"note: left out {tables.pluralize(left, 'clip')} of {NONE}, which {given} does not know")
        store = kept
    try:
        view = store.with_classes(known)
    except DataError as error:
        way_out = "correct the labels and prepare them again, or leave these clips out"
        raise DataError(f"{error}, those of {given}: {files.shorten(list(known))}; {way_out}") from error
    found = len(np.unique(view.labels[view.labels >= 0]))
    if 0 < found < (possible := len(known_names(known))):
        print(f"note: these clips have {found} of the {possible} classes of {given}")
    return view


def baselines_of(store: data.ClipStore) -> dict[str, Any]:
    """Return "teachers", {name: accuracy on labelled clips} of those whose outputs all of them have, and "lacking".

    If clips are "(none)", these are the names of teachers that lack this class: their accuracy is that on the others.
    """
    found, lacking = dict[str, float](), list[str]()
    for name in [name for name in teachers_in(store) if store.done(f"{name}.logits").all()]:
        own = store
        if batches.lacks_background(store, name):
            own = store.select(store.labels != batches.background_of(store))
            lacking += [name] if len(own) < len(store) else []
        if len(own):
            logits = torch.from_numpy(own.read(f"{name}.logits", range(len(own))))
            scores, labels = inference.per_segment(own, batches.probabilities(None, logits))
            found[name] = float((scores.argmax(1) == labels).double().mean())
    return {"teachers": found} | ({"lacking": lacking} if lacking else {})


def evaluate_labelled(a: argparse.Namespace, model: nn.Module, store: data.ClipStore) -> dict[str, Any]:
    """Print the accuracy on labelled clips, and return its numbers."""
    result = inference.evaluate(model, store, teacher=a.teacher, **inference_arguments(a))
    print(str(result) + (f", feature distance {result.feature_distance:.4f}" if a.teacher else ""))
    shown = {name: tables.printable(name) for name in result.per_class}
    width = max(map(len, shown.values()))
    for name, accuracy in result.per_class.items():
        count = int(result.confusion[store.class_names.index(name)].sum())
        print(f"  {shown[name]:<{width}}  {100 * accuracy:6.2f} % of {count}")
    return {
        "top1": result.top1,
        "per_class": result.per_class,
        "confusion": result.confusion.tolist(),
        "feature_distance": result.feature_distance,
        "segments": len(result.labels),
        "clips": result.clips,
        "precision": result.precision,
        "answers": answers_of(result, store),
    } | ({"calibration": numbers_of(result)} if result.reliability else {})


def numbers_of(result: inference.Evaluation) -> dict[str, Any]:
    """Return how reliable probabilities are, for JSON."""
    with_it, without = (asdict(one) if one else {} for one in (result.reliability, result.without_temperature))
    return {"temperature": result.temperature, **with_it, "without_temperature": without or None}


def answers_of(result: inference.Evaluation, store: data.ClipStore) -> list[dict[str, Any]]:
    """Return what was said of each segment: its id, wearer, class, the answer and its probability."""
    _, first = np.unique(store.segments, return_index=True)
    clips = store.clips  # made anew by each call
    chances, said = result.scores.max(1)
    rows = zip(first, result.wearers, result.labels, said, chances, strict=True)
    return [
        {"id": clips[clip]["id"], "wearer": wearer, "label": int(label), "said": int(best), "score": float(score)}
        for clip, wearer, label, best, score in rows
    ]


def evaluate_unlabelled(a: argparse.Namespace, model: nn.Module, store: data.ClipStore) -> dict[str, Any]:
    """Print the agreement with a teacher on clips without labels, and return its numbers."""
    why = f"{len(store)} clips have no label, so only the agreement with a teacher can be measured"
    teacher, whole = chosen_teacher(a, store, why), open_split(a.store, "all")
    train = whole.split("train") if "train" in whole.splits else None
    result = inference.agreement(model, store, teacher=teacher, train=train, **inference_arguments(a))
    print(str(result).replace("the teacher", teacher, 1))
    return {"teacher": teacher, **asdict(result)}


# ---------------------------------------------------------------------------------------------------------------
# Export


def run_export(a: argparse.Namespace) -> None:
    model = load_distilled(a.student, a.custom)
    if a.calibrate and a.precision != "int8":
        raise ValueError(f"--calibrate is for int8, not for {a.precision}; use --check to compare on a store")
    if not a.calibrate:
        reject(given_flags(a, "calibrate_split", "calibrate_clips"), "only with --calibrate STORE")
        reject(given_flags(a, "check_split") if not a.check else [], "only with --check STORE or --calibrate STORE")
    calibrate = open_split(a.calibrate, a.calibrate_split or "train", "--calibrate-split") if a.calibrate else None
    check = a.check or a.calibrate
    check = open_split(check, a.check_split or "test", "--check-split") if check else None
    calibrate, check = (store and in_classes_of(a, model, store) for store in (calibrate, check))
    if check is not None:
        batches.arrays_of(model, check)  # before a file is written
    options = {
        "format": a.format,
        "precision": a.precision,
        "calibrate": calibrate,
        "batch_size": a.batch_size,
        "overwrite": a.overwrite,
    }
    if a.calibrate_clips:
        options["calibration_clips"] = a.calibrate_clips
    if a.pair:
        descriptions = export.export_pair(model, a.out, **options)
    else:
        descriptions = (export.export(model, a.out, **options),)
    for description in descriptions:
        path = Path(a.out).with_name(description["file"])
        size = f"{path.stat().st_size / 1e6:.1f} MB"
        print(f"{path}: {a.format}, {a.precision}, {size}; {path}.json describes its inputs")
        print(f"run it with: {description['run'].replace(repr(path.name), repr(str(path)))}")
        for line in int8_notes(description):
            print(line)
    if (a.format, a.precision) == ("export", "int8"):
        print(export.SLOW_INT8)
    if check is not None:
        print()
        written = {"paths": [], "pairs": [a.out]} if a.pair else {"paths": [a.out]}
        tables.report(comparison_table(export.compare(model, check, **written)), "export", a.markdown, a.words)
        print(f"{len(check)} clips; top-1 per clip; median processor time of one clip on one core")


def int8_notes(description: dict[str, Any]) -> list[str]:
    """Return a line for each sort of inputs for which an int8 file is far from fp32."""
    compared = (description.get("calibration") or {}).get("compared") or {}
    lines = []
    for name, found in compared.items():
        if found.get("equal_labels", 1) < FEW_EQUAL or found["feature_error"] > LARGE_ERROR:
            usual = name == "calibration clips"
            aside = "" if usual else f"; on the calibration clips: {int8_text(compared['calibration clips'])}"
            lines.append(f"note: int8 is far from fp32 on {name}: {int8_text(found)}{aside}")
    return lines


def int8_text(found: dict[str, float]) -> str:
    """Return what `compare_int8()` found for one sort of inputs as text."""
    labels = f"{100 * found['equal_labels']:.0f} % equal labels, " if "equal_labels" in found else ""
    return f"{labels}feature error {100 * found['feature_error']:.0f} %"


def comparison_table(rows: list[export.Comparison]) -> Table:
    """Return a table of exported files beside the original."""
    header = ["file", "format", "precision", "equal labels (%)", "feature difference", "top-1 (%)", "MB", "ms per clip"]
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
    return Table(header, cells)


# ---------------------------------------------------------------------------------------------------------------
# Cost and run time


def run_measure(a: argparse.Namespace) -> None:
    models = {path: load_student(path, a.custom) for path in a.student}
    models |= {path: load_teacher(path) for path in a.teacher_file}
    if not models:
        raise ValueError("there is nothing to measure; give --student FILE or --teacher-file FILE")
    costs = measure_all(a, models)
    report_costs(a, costs, cost_table(costs), "measure own models")


def measure_all(a: argparse.Namespace, models: Mapping[str, nn.Module]) -> dict[str, inference.Cost]:
    """Return the cost of each model, with the options of `measure`."""
    costs: dict[str, inference.Cost] = {}
    arguments = {"batch_size": a.batch_size, "repeats": a.repeats, "seconds": a.seconds, **inference_arguments(a)}
    for name, model in models.items():
        print(f"measuring {name}", file=sys.stderr)
        costs[name] = inference.measure(model, **arguments)
    report_precision(a.precision, a.device)
    return costs


def report_costs(
    a: argparse.Namespace,
    costs: Mapping[str, inference.Cost],
    table: Table,
    section: str,
    notes: Sequence[str] = (),
    published: Mapping[str, Any] = MappingProxyType({}),
) -> None:
    """Print measured costs, and write them to --out; `published` are {name: numbers of others}, kept beside ours."""
    cost, passes = next(iter(costs.values())), min(c.repeats for c in costs.values())
    section += f" {cost.precision}" * (cost.precision != "fp32") + " compiled" * a.compile
    machine = None if cost.device == "cpu" else cost.device
    tables.report(table, section, a.markdown, a.words, machine=machine)
    conditions = f"{cost.precision}{', compiled' if a.compile else ''}, on {cost.device}"
    times = f"ms per clip: at batch {a.batch_size}, {conditions}; median of at least {passes} passes."
    for note in (GMACS_NOTE, times, *notes):
        print(textwrap.fill(note, 100, subsequent_indent="  ", break_on_hyphens=False))
    if cost.precision != "fp32" or a.compile:
        rows = [
            [name, f"{c.same_top1 * c.batch_size:.0f} of {c.batch_size}", f"{100 * c.feature_error:.2f} %"]
            for name, c in costs.items()
        ]
        print("\nCompared with uncompiled fp32, on random inputs; differences in % of the largest feature:")
        comparison = Table(["model", "equal top-1", "largest difference"], rows)
        tables.report(comparison, f"{section} against fp32", a.markdown, a.words, machine=machine)
    if a.out:
        found = {name: c._asdict() | ({"published": published[name]} if published else {}) for name, c in costs.items()}
        about = {"format": "egodistill measurement 1", "models": found, "compiled": a.compile, "notes": list(notes)}
        files.write_json(a.out, about)


def cost_table(costs: Mapping[str, inference.Cost]) -> Table:
    rows = [[name, f"{c.gmacs:.4f}", f"{c.params:,}", f"{c.ms_per_clip:.2f}"] for name, c in costs.items()]
    return Table(["model", "GMACs", "parameters", "ms per clip"], rows)


# ---------------------------------------------------------------------------------------------------------------
# Predictions


def run_predict(a: argparse.Namespace) -> None:
    if (a.labels or a.preview) and not a.html:
        raise ValueError(f"--{'labels' if a.labels else 'preview'} is for the page; give --html, too")
    if not a.labels:
        reject(given_flags(a, "root", "tier"), "only with --labels")
    use_readers(a)
    student = load_distilled(a.student, a.custom, a.without)
    clock = keyword_arguments(a, "imu_offset", "imu_stretch", "zero_accel")
    if doubt := caveat_about(a.student):
        print(f"note: {a.student}: {doubt}", file=sys.stderr)
    recording = data.open_recording(a.video, imu_files(a), **clock, imu_axes=a.imu_axes or "gopro")
    check_paths(a, recording.files)
    if "imu" in student.inputs:
        report_notes(recording)
    labels = labels_of_video(a, recording.path, student.class_names) if a.labels else []
    reject([] if recording.video else given_flags(a, "preview"), f"{recording.path} has no video; leave it out")
    if a.preview:  # before the work: the video may be unreadable
        transcode(recording.video, a.preview, short_side=PREVIEW, overwrite=a.overwrite)
    choice = {"exact": False if a.key_frames else None, "tolerance": a.tolerance}
    how, tracker = keyword_arguments(a, "min_coverage", "max_gap", "max_hold", "stride", "top"), None
    if a.events:
        saved = calibration.calibration_of(student).events
        tracker, how["stride"], whose = events.choose_tracker(saved, a.stride, a.event_start)
        how["top"] = max(a.top, tracker.top)
        note_thresholds(tracker, whose)
    found = inference.predict(
        student,
        recording,
        **how,
        **choice,
        **inference_arguments(a),
    )
    report_precision(a.precision, a.device)
    kept, shown = list[inference.Prediction](), list[inference.Prediction]()
    first = list(itertools.islice(found, 1))  # an error before the first clip leaves an earlier result as it is
    clips = keep(itertools.chain(first, found), kept, a.top if a.html else 1)
    rows = clips if tracker is None else as_clips(events.events(clips, **asdict(tracker)))
    top = 1 if tracker else a.top
    with prediction_writer(Path(a.out), top) if a.out else contextlib.nullcontext(lambda clip: None) as write:
        for clip in rows:
            write(clip)  # first: printing may end the command
            shown.append(clip._replace(classes=clip.classes[:1]))
            print(line_of(clip, student.inputs))
    count, lost = len(kept), [clip for clip in kept if clip.problem]
    for clip in lost if tracker else ():
        print(line_of(clip))
    skipped = len(lost)
    note_single_inputs(recording.path, kept, student.inputs)
    if tracker and not shown and skipped < count:
        print("note: there is no event", file=sys.stderr)
    if skipped == count:
        raise ValueError(
            f"{recording.path}: all {count} clips were skipped for the reasons above; no clip was classified"
        )
    if skipped:
        print(f"{skipped} of {count} clips were skipped for the reasons above", file=sys.stderr)
    if a.subtitles:
        write_subtitles(a.subtitles, shown)
    if a.html:
        table = CSVRows(text := io.StringIO(newline=""), a.top)
        for clip in kept:
            table.add(clip)
        spec, about = batches.clip_spec_of(student, **choice), about_prediction(a, student, recording)
        more = {"labels": labels, "preview": Path(a.preview) if a.preview else None}
        more |= {"lasting": shown if tracker else ()}
        write_prediction(a.html, kept, recording, spec, text.getvalue(), about, a.max_hold, **more)


def keep(
    clips: Iterator[inference.Prediction], kept: list[inference.Prediction], top: int
) -> Iterator[inference.Prediction]:
    """Yield clips, and add them to a list with their best classes."""
    for clip in clips:
        kept.append(clip._replace(classes=clip.classes[:top]))
        yield clip


def as_clips(found: Iterator[events.Event]) -> Iterator[inference.Prediction]:
    """Yield events as rows like those of clips, with one class."""
    for event in found:
        yield inference.Prediction(event.start, event.stop, [(event.label, event.score)])


def line_of(clip: inference.Prediction, reads: Collection[str] = ()) -> str:
    """Return the line for a clip or an event, which says if a clip had one alone of what the student `reads`."""
    scores = tables.scores_text([score for _, score in clip.classes])
    pairs = zip((name for name, _ in clip.classes), scores, strict=True)
    best = "  ".join(map(" ".join, pairs)) or f"skipped: {clip.problem}"
    alone = single_input_text(clip.inputs, reads)
    return f"{clip.start:8.2f} {clip.stop:8.2f} s  {tables.printable(best)}" + (f"  ({alone})" if alone else "")


def labels_of_video(a: argparse.Namespace, video: str, classes: Sequence[str] | None) -> list[data.Segment]:
    """Return the segments of a video in --labels, in order; print which labels are no class of the student.

    Raise DataError if the table has none, or if they contradict each other or the video.
    """
    table = a.labels
    if table.lower().endswith(".csv") and is_list_of_recordings(first_line(Path(table))):
        raise DataError(f"{table}: line 1 has no column label; give a table with the columns video,start,stop,label")
    rows = annotations.read_annotations(table, a.root, tier=a.tier)
    every = [one for one in rows if one.label is not None]
    found = [one for one in every if is_same(one.path, video)]
    if not found:
        videos = list(dict.fromkeys(Path(one.path).name for one in every))
        if Path(video).name in videos:  # another file of this name
            videos = list(dict.fromkeys(one.path for one in every))
        listed = f"those of {', '.join(videos[:3])}{', ...' * (len(videos) > 3)}" if videos else "none at all"
        raise DataError(f"{table}: has no labels of {video}, but {listed}; give the table of this video")
    headers = probe_videos(found, 1)
    table_checks.notes_of(table_checks.find(found, headers, origin=rows.origin))  # raises its errors
    note_unknown_classes(table, found, classes)
    return sorted(found, key=lambda one: one.start)


def about_prediction(a: argparse.Namespace, student: Any, recording: data.Recording) -> dict[str, str]:
    """Return what the foot of a page says."""
    trained, clock = getattr(student, "trained_with", None), f"{recording.imu_offset:g} s, {recording.imu_stretch:g}"
    motion = f"{name_files(recording.imu_source)}; offset and stretch {clock}; axes {recording.imu_axes}"
    name = f"{a.student} without {a.without}" if a.without else a.student
    return {
        "student": f"{name}, {student.trained_by}, {tables.pluralize(len(trained['history']), 'epoch')}"
        if trained
        else name,
        **({"its evaluation": doubt} if (doubt := caveat_about(a.student)) else {}),
        "recording": recording.path,
        "head motion": motion if "imu" in student.inputs else "not read by this student",
        "made by": tables.provenance(tables.command_line(a.words)),
    }


@contextlib.contextmanager
def prediction_writer(path: Path, top: int) -> Iterator[Callable[[inference.Prediction], None]]:
    """Yield a function that adds a prediction to a .csv or .json file at once, so that a killed run keeps its rows."""
    with files.disk_errors(path, continues=False):
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "w", newline="", encoding="utf-8") as file:
            writer = (JSONRows if path.suffix.lower() == ".json" else CSVRows)(file, top)
            yield writer.add


class CSVRows:
    """Rows of a CSV file: start, stop, the best classes with their scores, what is wrong, and the inputs of a clip."""

    def __init__(self, file: TextIO, top: int) -> None:
        self.file, self.writer = file, csv.writer(file)
        self.columns = [f"{what}_{k + 1}" for k in range(top) for what in ("class", "score")]
        self.writer.writerow(["start", "stop", *self.columns, "problem", "inputs"])

    def add(self, clip: inference.Prediction) -> None:
        cells = [cell for name, score in clip.classes for cell in (tables.csv_text(name), score)]
        cells += [""] * (len(self.columns) - len(cells))
        cells += [tables.csv_text(clip.problem or ""), " ".join(clip.inputs)]
        self.writer.writerow([f"{clip.start:.3f}", f"{clip.stop:.3f}", *cells])
        self.file.flush()


class JSONRows:
    """Items of a JSON list, one per line; the file is valid after each."""

    def __init__(self, file: TextIO, top: int) -> None:
        self.file, self.end, self.separator = file, 1, "\n"
        file.write("[\n]\n")

    def add(self, clip: inference.Prediction) -> None:
        text = self.separator + json.dumps(clip._asdict())
        self.file.seek(self.end)
        self.file.write(f"{text}\n]\n")
        self.file.flush()
        self.end += len(text)  # ASCII
        self.separator = ",\n"
