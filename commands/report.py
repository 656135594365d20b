"""The command `report`: a page about what `train` made in a folder, or about one model or evaluation.

    egodistill report run                   # run/report.html
    egodistill report student.safetensors   # its curves, and student.test.json if `evaluate` wrote it
    egodistill report val.json              # val.json.html: what `evaluate --out val.json` wrote

It shows what is there, so it can be opened while a training runs.
"""

from __future__ import annotations

import argparse
import shlex
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torchvision.io import encode_jpeg

from .. import data
from ..datasets.segments import offset_rows
from ..deploy.events import Tracker
from ..drawing import svg
from ..engine.calibration import ENOUGH
from ..support import files, tables
from ..support.errors import DataError
from ..support.names import Place, real_path
from ..support.pages import Markup, data_url, tag, write_page
from ..support.tables import pluralize, printable
from ..support.version import __version__
from ..training import validation_score
from .evaluations import Result, by_wearer, evaluation_of, findings, is_about, read_evaluation, read_result
from .paths import page_about
from .recordings import split_warnings
from .whole_recordings import about_recordings, read_numbers, recordings_of, tables_of

__all__ = ["CORRECTIONS", "note_plan", "read_plan", "write_report"]

MODELS = {"student": "student", "frames-alone": "frames alone", "labels-alone": "labels alone"}  # {file: name}
TRAINED = {"teacher": "teacher", "imu": "stage 1", **MODELS}
# {value of a history: (its name, factor)}; others have their own name
CURVES = {
    "loss": ("loss", 1),
    "kd": ("L_KD, teacher's classes", 1),
    "gt": ("L_GT, labels", 1),
    "l1": ("L_1, teacher's feature", 1),
    "nce": ("L_NCE, matching", 1),
    "top1": ("top-1 in training (%)", 100),
    "agreement": ("agreement with the teacher (%)", 100),
    "matching": ("clips matched to IMU (%)", 100),
}
UNDRAWN = ("epoch", "learning_rate", "clips_per_second", "loader_share", "precision")  # of a log
PLAN, FORMAT, CORRECTIONS = "train.json", "egodistill run 1", "offsets.csv"  # files of a folder of `train`
SHOWN, MATRIX = 12, 30  # clips of each list; classes in the confusion matrix
STYLE = """
table { border-collapse: collapse; margin: 6px 0 }
td, th { padding: 3px 10px 3px 0; text-align: left; vertical-align: top; white-space: nowrap }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(290px, 1fr)); gap: 16px 32px }
.wide { overflow-x: auto } .matrix td, .matrix th { padding: 2px 5px; text-align: right; font-size: 12px }
.matrix .right { font-weight: bold; outline: 1px solid #767676 }
.s1 { background: #deebf7 } .s2 { background: #b3d2ea } .s3 { background: #7db4dc } .s4 { background: #4f97cb }
.clips { display: flex; flex-wrap: wrap; gap: 14px }
.clips figure { margin: 0; width: 230px } .clips img { max-width: 100%; height: 110px; display: block }
"""


# ---------------------------------------------------------------------------------------------------------------
# Sections


def results_section(results: Sequence[Result], taught: bool, quick: bool = False) -> Markup:
    """Return the findings; `taught`: the first model has a teacher."""
    parts = [tag("p", tag("b", f"{name}: "), text) for name, text in findings(results, quick)]
    if len(results) == 1 and taught:
        both = "on frames alone and on labels alone" if results[0].answers else "on frames alone"
        advice = f"`egodistill train --baselines` also trains it {both}, to compare."
        parts.append(tag("p", tag("small", advice)))
    return Markup("".join(parts if results else [*parts, tag("p", "Nothing is evaluated yet.")]))


def classes_section(result: Result) -> Markup:
    """Return the accuracy of each class and wearer, the worst first, and what is confused."""
    names, answers = result.numbers["class_names"], result.answers
    counts = Counter(one["label"] for one in answers)
    rows = sorted((result.numbers["per_class"][names[k]], names[k], count) for k, count in counts.items())
    shares = [(name, share, f"{100 * share:.0f} % of {count}") for share, name, count in rows]
    parts = [svg.bars(shares, "accuracy by class", 1)]
    if wearers := by_wearer(result, result.right):
        parts.append(tag("h3", "By wearer"))
        rows = sorted((share, name) for name, share in wearers.items())
        parts.append(svg.bars([(name, share, f"{share:.0f} %") for share, name in rows], "accuracy by wearer", 100))
    parts.append(tag("h3", "Confusions"))
    wrong = Counter((one["label"], one["said"]) for one in answers if one["label"] != one["said"])
    rows = [(names[a], names[b], f"{n} of {counts[a]}") for (a, b), n in wrong.most_common(SHOWN)]
    parts.append(table(("label", "answer", "segments"), rows) if rows else tag("p", "None."))
    parts.append(matrix(np.asarray(result.numbers["confusion"]), names))
    return Markup("".join(parts))


def calibration_section(result: Result) -> Markup:
    """Return how often answers of each probability are right, of so many clips that it says something."""
    found = result.numbers["calibration"]
    parts = [tag("p", f"{result.calibration_text}.")]
    if found["clips"] >= ENOUGH:
        of = {"true probabilities": {"bins": [(1, 0.0, 0.0), (1, 1.0, 1.0)]}, "this model": found}
        of |= {"without its temperature": before} if (before := found["without_temperature"]) else {}
        lines = {name: [(100 * p, 100 * right) for _, p, right in one["bins"]] for name, one in of.items()}
        words = "right answers (%) by the probability of the answer"
        parts.append(tag("div", svg.curves(lines, words, "probability (%)", last="of the surest"), class_="charts"))
    return Markup("".join(parts))


def recordings_section(numbers: dict[str, Any]) -> Markup:
    """Return what the events of whole recordings are worth."""
    tracker = Tracker(**{name: value for name, value in numbers["thresholds"].items() if name != "stride"})
    parts = [tag("p", f"{about_recordings(numbers)}; an event {tracker}.")]
    parts += [table(one.header, one.rows) for one in tables_of(numbers)]
    if known := [(one["f1_50"], name) for name, one in numbers["by_wearer"].items() if one["f1_50"] is not None]:
        shares = [(name, share, f"{share:.0f} %") for share, name in sorted(known)]
        parts += [tag("h3", "F1@50 by wearer"), svg.bars(shares, "F1@50 by wearer", 100)]
    return Markup("".join(parts))


def table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> Markup:
    """Return a table that can be scrolled where it is wider than the page."""
    lines = [tag("tr", *(tag("th", name) for name in head))]
    lines += [tag("tr", *(tag("td", str(cell)) for cell in row)) for row in rows]
    return tag("div", tag("table", *lines), class_="wide", tabindex="0")


def matrix(counts: np.ndarray, names: Sequence[str]) -> Markup:
    """Return a confusion matrix [C, C] as a table; columns have the numbers of the rows.

    Of more than `MATRIX` classes, those with most segments are shown; what the model takes for others has a column.
    """
    shown = np.sort(np.argsort(-counts.sum(1), kind="stable")[:MATRIX])
    cells, head = counts[np.ix_(shown, shown)], [str(k + 1) for k in shown]
    if len(shown) < len(names):
        cells, head = np.column_stack([cells, counts[shown].sum(1) - cells.sum(1)]), [*head, "others"]
    rows = [tag("tr", tag("th", "label"), *(tag("th", name) for name in head))]
    for place, (k, row) in enumerate(zip(shown, cells, strict=True)):
        shades = np.ceil(4 * row / max(row.sum(), 1)).astype(int).tolist()  # 0 to 4
        looks = [f"right s{n}" if column == place else f"s{n}" for column, n in enumerate(shades)]
        found = [tag("td", str(n) if n else "", class_=look) for n, look in zip(row.tolist(), looks, strict=True)]
        rows.append(tag("tr", tag("th", f"{names[k]} {k + 1}"), *found))
    return tag("div", tag("table", *rows, class_="matrix"), class_="wide", tabindex="0")


def clips_section(result: Result, store: data.ClipStore) -> Markup:
    """Return the surest wrong answers and the least sure ones, with frame and head motion."""
    wrong = [one for one in result.answers if one["label"] != one["said"]]
    lists = {
        "Wrong, the surest first": sorted(wrong, key=lambda one: -one["score"])[:SHOWN],
        "The least sure": sorted(result.answers, key=lambda one: one["score"])[:SHOWN],
    }
    rows: dict[str, list[tuple[int, dict]]] = {}
    for row, clip in enumerate(store.clips):
        rows.setdefault(clip["id"], []).append((row, clip))
    parts = []
    for title, answers in lists.items():
        found = []
        for one in answers:
            clips = rows[one["id"]]
            found.append(clip_figure(one, store, *clips[len(clips) // 2], result.numbers["class_names"]))
        parts += [tag("h3", title), tag("div", *found, class_="clips") if found else tag("p", "None.")]
    return Markup("".join(parts))


def clip_figure(
    answer: dict[str, Any], store: data.ClipStore, row: int, clip: dict[str, Any], names: Sequence[str]
) -> Markup:
    """Return a clip of a segment, a row of the store: what the student saw, and what it answered."""
    said = f"{names[answer['said']]} ({100 * answer['score']:.0f} %)"
    words = f"labelled {names[answer['label']]}" if answer["label"] != answer["said"] else "as labelled"
    place = f"{Path(clip['video']).name} {files.clock(clip['start'])}"
    parts = [tag("b", said), f", {words}", tag("br")]
    for frames in [name for name in store.names if name.startswith("frames_")][:1]:
        (seen,) = store.read(frames, [row])  # [N, 3, H, W]
        picture = torch.from_numpy(np.concatenate(list(seen), axis=2))
        image = data_url(np.asarray(encode_jpeg(picture, quality=80)).tobytes(), "image/jpeg")
        parts.insert(0, tag("img", src=image, alt=f"frame of {place}"))
    if "imu" in store.names:
        (imu,) = store.read("imu", [row])
        speed = np.linalg.norm(imu[:, 3:], axis=1)
        times = np.arange(len(speed)) / store.specs["imu"].imu_rate
        parts.append(svg.envelope(times, speed, (0.0, float(times[-1])), "head turns", "rad/s"))
    return tag("figure", *parts, tag("small", place + (f", {clip['wearer']}" if clip["wearer"] else "")))


def curves_section(run: Path, plan: dict[str, Any]) -> Markup:
    """Return the curves of each training of the plan, also of one that runs."""
    parts = []
    for stem, name in TRAINED.items():
        if not is_planned(plan, f"{stem}.safetensors"):
            continue
        parts.append(curves_of(run / f"{stem}.safetensors", name))
    return Markup("".join(parts)) or tag("p", "Nothing is trained yet.")


def curves_of(model: Path, name: str) -> Markup:
    """Return a heading and a chart for each value in the log of a training; "" if there is none."""
    rows = list(files.read_lines(files.log_path(files.training_file(model)), "loss"))
    if not rows:
        return Markup()
    kept = kept_epoch(rows)
    state = ", running" if not model.exists() else f", weights of epoch {kept} (grey line)" if kept else ""
    values, charts = dict.fromkeys(key.removeprefix("validation_") for row in rows for key in row), []
    for what in [*CURVES, *(key for key in values if key not in (*CURVES, *UNDRAWN))]:
        (label, scale), lines = CURVES.get(what, (what, 1)), {}
        for key, title in ((what, label), (f"validation_{what}", f"{label}, validation")):
            known = [(number, row[key]) for number, row in enumerate(rows, 1) if isinstance(row.get(key), (int, float))]
            lines |= {title: [(number, scale * value) for number, value in known]} if known else {}
        if lines:
            charts.append(tag("div", svg.curves(lines, f"{label} of {name} by epoch", "epoch", kept)))
    return Markup(tag("h3", f"{name}{state}") + tag("div", *charts, class_="charts"))


def kept_epoch(rows: Sequence[dict[str, Any]]) -> int | None:
    """Return the epoch, from 1 on, that is best on the validation clips so far; None: there are no such clips."""
    known = [{name: value for name, value in row.items() if value is not None} for row in rows]  # null: not finite
    if not all({"validation_top1", "validation_loss"} & row.keys() for row in known):
        return None
    return 1 + int(np.argmax([validation_score(row) for row in known]))


def data_section(run: Path, plan: dict[str, Any], store: data.ClipStore) -> Markup:
    """Return what the clips are, what was left out and why, and what is known of clocks and axes."""
    rows, counts, every = [], {}, store.clips
    for split, status in store.counts.items():
        clips = [clip for clip in every if clip["split"] == split]
        wearers, videos = {clip["wearer"] for clip in clips} - {None}, {clip["video"] for clip in clips}
        labels = counts[split] = Counter(clip["label"] for clip in clips)
        classes = len({*labels} - {None})
        rows.append((split, len(clips), len(videos), len(wearers) or "unknown", classes, status["failed"]))
    parts = [table(("split", "clips", "recordings", "wearers", "classes", "failed"), rows)]
    notes = [f"warning: {text}" for text in split_warnings(counts)]
    if unknown := sum(clip["wearer"] is None for clip in every):
        notes.append(f"wearer unknown: {pluralize(unknown, 'clip')}; name it in the table's column wearer")
    notes += [f"left out: {pluralize(count, 'segment')}, {why}" for why, count in plan["left_out"].items()]
    notes += [f"failed: {one['id']} at {one['start']:.2f} s: {one['reason']}" for one in store.failures[:SHOWN]]
    notes += [f"{source}: {'; '.join(texts)}" for source, texts in list(store.notes.items())[:SHOWN]]
    parts += [tag("p", text) for text in notes]
    if classes := sorted({name for labels in counts.values() for name in labels} - {None}):
        listed = table(("class", *counts), [(name, *(counts[split][name] for split in counts)) for name in classes])
        parts.append(tag("details", tag("summary", "Clips of each class"), listed))
    parts.append(tag("h3", "Clocks and axes"))
    check = run / "check.json"
    if not (check.exists() and is_planned(plan, CORRECTIONS)):
        return Markup("".join([*parts, tag("p", "Not checked.")]))
    found = files.read_json(check)["recordings"]
    corrections = {row["video"]: row for row in offset_rows(run / CORRECTIONS)}
    parts.append(tag("p", "Clocks are corrected wherever they could be measured, also by a few milliseconds."))
    # What is corrected or cannot be trusted comes first.
    for one in sorted(found, key=lambda one: not (one["problem"] or one["notes"])):
        words = one["notes"] or [one["verdict"]] if one["problem"] is None else [one["problem"]]
        if one["notes"] and (row := corrections.get(one["video"])):
            turned = f", and its axes are turned by {row['imu_axes']}" if row.get("imu_axes") else ""
            words = [*words, f"Corrected: its clock is moved by {float(row['imu_offset']):+.3f} s{turned}"]
        name = tag("b" if one["problem"] or one["notes"] else "span", Path(one["video"]).name)
        parts.append(tag("p", name, ": ", " ".join(f"{text.removesuffix('.')}." for text in words)))
    return Markup("".join(parts))


def foot(*commands: str) -> Markup:
    """Return commands and versions."""
    lines = [tag("p", tag("code", line)) for line in commands]
    return Markup("".join([*lines, tag("p", f"egodistill {__version__}, torch {torch.__version__}")]))


# ---------------------------------------------------------------------------------------------------------------
# The page


def note_plan(run: Path, command: str, steps: Sequence[str], about: dict[str, Any]) -> None:
    """Write what `train` is going to do in a folder, RUN/train.json: the command as it was typed, and those it runs.

    `about` has "segments", their fingerprint, "left_out", {reason: number of segments}, and "quick".
    """
    place = Place.of(run)
    plan = {"format": FORMAT, "command": command, "folder": place.cwd, "run": place.home, "steps": list(steps), **about}
    files.write_json(run / PLAN, plan)


def read_plan(run: Path) -> dict[str, Any]:
    """Return the plan of a folder of `train`. Raise DataError for another folder."""
    plan = files.read_json(run / PLAN) if (run / PLAN).exists() else None
    if not (isinstance(plan, dict) and plan.get("format") == FORMAT):
        raise DataError(f"{run}: not a folder of `egodistill train`, which has a {PLAN} of its own; give another one")
    return plan


def is_planned(plan: dict[str, Any], name: str) -> bool:
    """Return whether a step of the plan names a file of the folder: others may be of an earlier plan."""
    return any(word.rpartition("/")[2] == name for step in plan["steps"] for word in shlex.split(step))


def write_report(run: Path) -> str:
    """Write the page of a folder that `train` works in, RUN/report.html, and return its findings and its path.

    Raise DataError for another folder.
    """
    plan, out = read_plan(run), run / "report.html"
    planned = [stem for stem in MODELS if is_planned(plan, f"{stem}.test.json")]
    store = data.ClipStore(run / "store", unfinished=True) if (run / "store" / "store.json").exists() else None
    results = [one for stem in planned if (one := read_result(run / f"{stem}.safetensors", MODELS[stem]))]
    results = [one for one in results if store is None or is_about(one, store)]
    taught = any(shlex.split(step)[1] == "distill" for step in plan["steps"])
    quick = plan.get("quick", False)
    parts = {"Result": results_section(results, taught, quick)}
    if results and results[0].answers and store is not None:
        parts["By class"] = classes_section(results[0])
        parts |= {"How sure": calibration_section(results[0])} if results[0].calibration_text else {}
        parts["Clips"] = clips_section(results[0], store.split("test"))
    whole = read_numbers(path := recordings_of(run / "student.safetensors"), run / "student.safetensors")
    if whole and is_planned(plan, path.name):
        parts["Whole recordings"] = recordings_section(whole)
    parts["Training"] = curves_section(run, plan)
    if store is not None:
        parts["Data"] = data_section(run, plan, store)
    parts["How it was made"] = foot(plan["command"], *plan["steps"])
    write_page(out, f"egodistill train: {Path(real_path(run)).name}", parts, "report", None, "", STYLE)
    return "\n".join([*(printable(": ".join(one)) for one in findings(results, quick)), f"The page about it: {out}"])


def write_model_report(path: Path, command: str) -> str:
    """Write the page about a model or about what `evaluate --out` wrote, PATH.html; return its findings and its path.

    Raise DataError if there is neither an evaluation nor a log of a training.
    """
    if path.suffix.lower() == ".json" and (whole := read_numbers(path)):
        parts = {"Whole recordings": recordings_section(whole), "How it was made": foot(command)}
        write_page(out := page_about(path), path.name, parts, "report", None, "", STYLE)
        return f"{about_recordings(whole)}\nThe page about it: {out}"
    found = read_evaluation(path) if path.suffix.lower() == ".json" else read_result(path)
    curves = curves_of(path, path.stem)
    if not (found or curves):
        log = files.log_path(files.training_file(path)).name
        told = f"there is neither {log} nor a newer {evaluation_of(path).name} beside it; give a model that a training"
        raise DataError(f"{path}: {told} wrote, the JSON of `evaluate --out`, or a folder of `egodistill train`")
    results = [found] if found else []
    parts = {"Result": results_section(results, False)}
    if found and found.answers:
        parts["By class"] = classes_section(found)
        parts |= {"How sure": calibration_section(found)} if found.calibration_text else {}
    parts |= {"Training": curves} if curves else {}
    parts["How it was made"] = foot(command)
    write_page(out := page_about(path), path.name, parts, "report", None, "", STYLE)
    return "\n".join([*(printable(": ".join(one)) for one in findings(results)), f"The page about it: {out}"])


def run_report(a: argparse.Namespace) -> None:
    path = Path(a.source)
    print(write_report(path) if path.is_dir() else write_model_report(path, tables.command_line(a.words)))
