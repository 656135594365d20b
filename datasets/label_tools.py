"""Read the labels of tools that people label with: ELAN, BORIS and Label Studio.

    from egodistill.datasets import label_tools

    segments = label_tools.read_labels("walk.txt")                  # ELAN: File > Export As > Tab-delimited Text
    segments = label_tools.read_labels("events.tsv", "films")       # BORIS: Observations > Export aggregated events
    segments = label_tools.read_labels("project.json", tier="7")    # Label Studio: Export > JSON; annotator 7

None of the tools was at hand. The formats are those of ELAN's Transcription2TabDelimitedText.java, of BORIS's
export_observation.py and its test files (versions 4 to 9), and of Label Studio's pages on its JSON and on the tags
TimelineLabels and TimeSeriesLabels. That frames count from 1, and the last one belongs to a range, is from its own
label-studio-ml-backend (examples/yolo/utils/converter.py).
"""

from __future__ import annotations

import dataclasses
import math
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from ..recordings.clips import VIDEO_SUFFIXES
from ..support.errors import DataError
from ..support.records import first_line, json_items, open_text, read_table, start_and_stop
from ..video import probe
from .aria_datasets import number
from .segments import ROUNDING, Origin, Segment, SegmentList, Windows, drawn_splits

__all__ = ["label_reader", "read_labels"]

Labels = Iterator[tuple[str, str, str, Any, Any, str]]  # (place in the file, tier, video, start, stop, class)

# What a cell of ELAN is, by itself or by the end of its header, which begins in any language: c a clock, s seconds,
# m milliseconds, f a clock with frames, e an .eaf; other cells are x.
CELLS = {"c": r"\d+:\d\d:\d\d\.\d+", "s": r"\d+\.\d+(E\d+)?", "m": r"\d+", "f": r"(\d\d[:;]){3}\d\d", "e": r".+\.eaf"}
HEADS = {"c": r".+ - hh:mm:ss\.ms", "s": r".+ - ss\.msec", "m": r".+ - msec", "f": r".+ - (PAL|PAL-50fps|NTSC.*)"}
TIMES = re.compile(r"(cs?m?f?|sm?f?|mf?)\1\1?(?=[^e])")  # begin, end, perhaps duration; a value is behind them
VALUES = ("timelinelabels", "timeserieslabels", "labels")  # of a result of Label Studio
NOTE = (
    "frames are counted at the rate of each video; if the Video tag had another frameRate, give it in the data as fps"
)
LINKED = re.compile(r'"?#([^\t]*?)(?: -- offset: (-?\d+))?"?\s*')  # a medium of the next rows, or their .eaf


def label_reader(path: Path) -> Callable[[Path, Path, Counter[str], list[str]], Labels] | None:
    """Return the reader for an export of one of the tools; None for another file.

    Args:
        path: The file.
    """
    line = first_line(path)
    if line.lstrip().startswith("["):
        return _label_studio
    if re.match(r'"?observation id\b', line, re.IGNORECASE):
        return _boris
    rows = "\t" in line and TIMES.search(_kinds(line.split("\t"), CELLS))
    return _elan if rows or LINKED.fullmatch(line) or re.search(r" - (hh:mm:ss\.ms|ss\.msec|msec)\b", line) else None


def read_labels(
    annotations: str | os.PathLike,
    root: str | os.PathLike | None = None,
    *,
    tier: str | None = None,
    windows: Windows | None = None,
) -> SegmentList:
    """Read the labels of ELAN (tab-delimited text), BORIS (aggregated events) or Label Studio (JSON).

    The class is the value of an annotation, the behaviour or the label. `.dropped` counts point events, empty values
    and what has no times. A video is found by its path or its name; for ELAN also by that of the .eaf or of the file.
    Frames of Label Studio are counted at `fps` of the task's data, or at the rate of the video. Whole videos are drawn
    for testing; a single one is for training. Raise DataError that names the file, and the line, or task and result.

    Args:
        annotations: The file.
        root: The folder with videos and IMU files, by default that of the file.
        tier: Read only this tier of ELAN, subject of BORIS or annotator of Label Studio (e-mail or number). It must be
            given if labels of two of them overlap.
        windows: The share of videos for testing, and its seed.

    >>> from pathlib import Path
    >>> from egodistill import data
    >>> size = Path("walk.txt").write_text("hands\\t\\t00:00:01.500\\t00:00:04.000\\topen\\n")
    >>> [(one.video, one.label, one.start, one.stop) for one in data.read_labels("walk.txt")]
    [('walk.mp4', 'open', 1.5, 4.0)]
    """
    path, dropped, notes, rows, tiers = Path(annotations), Counter(), [], {}, {}
    if (reader := label_reader(path)) is None:
        raise DataError(f"{path}: not tab-delimited text of ELAN, aggregated events of BORIS or JSON of Label Studio")
    labels = list(reader(path, Path(root or path.parent), dropped, notes))
    listed = ", ".join(f"{own!r} ({count})" for own, count in Counter(label[1] for label in labels).items()) or "none"
    if labels and tier not in (None, *(label[1] for label in labels)):
        raise DataError(f"{path}: no labels of {tier!r} (tier, --tier); it has those of {listed}")
    found: list[Segment] = []
    for where, own, video, start, stop, label in labels:
        if tier not in (None, own):
            continue
        if start == stop or not label.strip():
            dropped["a point event" if label.strip() else "an empty value"] += 1
            continue
        name = f"{Path(video).stem}_{len(found)}"
        rows[name], tiers[name] = where.removeprefix(f"{path}, "), own
        found.append(Segment(name, video, *start_and_stop(where, str(start), str(stop)), label.strip()))
    if not found:
        why = "; ".join(f"{reason}: {count}" for reason, count in dropped.items())
        raise DataError(f"{path}: no labelled segment ({why or 'it has no labels'})")
    last, *others = sorted(found, key=lambda one: (one.video, one.start))
    for one in others:
        overlaps = last.video == one.video and last.stop > one.start + ROUNDING
        if overlaps and tiers[last.id] != tiers[one.id]:
            both = f"{one.label!r} of {tiers[one.id]!r} overlaps {last.label!r} of {tiers[last.id]!r} ({rows[last.id]})"
            advice = f"a clip has one label, so choose one of {listed} (tier, --tier)"
            raise DataError(f"{path}, {rows[one.id]}: {both}; {advice}")
        last = last if overlaps and last.stop > one.stop else one
    splits = drawn_splits({one.video for one in found}, windows or Windows())
    segments = (dataclasses.replace(one, split=splits[one.video]) for one in found)
    return SegmentList(segments, dropped, Origin(str(path), rows, drawn=True, notes=tuple(notes)))


def _kinds(cells: Sequence[str], forms: dict[str, str]) -> str:
    """Return a letter for each cell."""
    return "".join(next((k for k, form in forms.items() if re.fullmatch(form, cell.strip())), "x") for cell in cells)


def _base(name: str) -> str:
    """Return the name of a file from its path or address; Label Studio's own addresses have it behind ?d=."""
    return re.split(r"[/\\]", re.sub(r".*[?&]d=|\?.*", "", unquote(name)))[-1]


def _video(where: str, folder: Path, names: Sequence[str]) -> str:
    """Return the first video that exists; a name is a path or an address of it, or of a file with its stem."""
    for name in names:
        stem, suffix = os.path.splitext(base := _base(name))
        tried = [stem + end for low in VIDEO_SUFFIXES for end in (low, low.upper())]
        if suffix.lower() in VIDEO_SUFFIXES:  # the name of a file that was uploaded to Label Studio begins with digits
            tried = [unquote(name).removeprefix("file://"), base, re.sub(r"^[0-9a-f]{8}-", "", base)]
        if found := next((one for one in tried if os.path.isfile(folder / one)), None):
            return str(folder / found)
    raise DataError(
        f"{where}: no video {' or '.join(names)!r} in {folder}; put it there, or give its folder (root, --root)"
    )


def _elan(path: Path, folder: Path, dropped: Counter[str], notes: list[str]) -> Labels:
    """Yield annotations. A row has tier, participant, times and value, or times and a value for each tier."""
    header, linked, times, begun = [], [], None, False
    with open_text(path) as file:
        for count, line in enumerate(file, 1):
            where, cells = f"{path}, line {count}", [cell.strip() for cell in line.split("\t")]
            if found := LINKED.fullmatch(line):
                linked, begun = [*([] if begun else linked), found], False
                continue
            if times is None and any(cells):
                header = cells if TIMES.search(_kinds(cells, HEADS)) else []
                times = TIMES.search(_kinds(cells, HEADS if header else CELLS))
            if not any(cells) or cells == header:
                continue
            if times is None or len(cells) <= times.end():
                needed = "begin, end (hh:mm:ss.ms, ss.msec or msec) and value"
                raise DataError(f"{where}: has no {needed}; export tab-delimited text with these columns")
            begun, value = True, times.end()
            offset = next((one[2] for one in linked if one[1].lower().endswith(VIDEO_SUFFIXES)), None)
            if offset not in (None, "0"):
                advice = "export with 'Add master media time offset', and write 0 for it into the file"
                raise DataError(f"{where}: its video has an offset of {offset} ms; {advice}")
            files = [cell for cell in cells if _kinds([cell], CELLS) == "e"]
            video = _video(where, folder, [*(one[1] for one in linked), *files, path.name])
            start, stop = cells[times.start()], cells[times.end(1)]
            if times[1][0] == "m":
                start, stop = (f"{float(text) / 1000:.3f}" if text.isdecimal() else text for text in (start, stop))
            pairs = [(cells[0] if times.start() else "", cells[value])]
            if header and not times.start():
                pairs = [*zip(header[value:], cells[value:], strict=False)]
            filled = [pair for pair in pairs if pair[1] not in ("", *files)] or [(pairs[0][0], "")]
            yield from ((where, tier, video, start, stop, text) for tier, text in filled)


def _boris(path: Path, folder: Path, dropped: Counter[str], notes: list[str]) -> Labels:
    """Yield the behaviours of observations, whose times include the offset of the observation."""
    header, videos = first_line(path), {}
    if "start (s)" not in header.lower():
        raise DataError(f"{path}: no column Start (s); use Observations > Export aggregated events, as TSV or CSV")
    columns, sign = ("start (s)", "stop (s)"), "\t" if "\t" in header else ","
    for where, row in read_table(path, ("observation id", "behavior", *columns), delimiter=sign):
        name = row.get("source", "").partition("|")[0].removeprefix("player #1:") or row.get("media file", "")
        if ";" in name or videos.setdefault(row["observation id"], name) != name:
            raise DataError(f"{where}: its observation has several videos; make an observation of each video")
        offset = number(where, "time offset (s)", row.get("time offset (s)") or 0)
        start, stop = (round(number(where, key, row[key].replace("NA", "")) - offset, 3) + 0.0 for key in columns)
        if row.get("behavior type", "").upper() == "POINT" or math.isnan(stop):
            start = stop = 0.0
        yield where, row.get("subject", ""), _video(where, folder, [name]), start, stop, row["behavior"]


def _label_studio(path: Path, folder: Path, dropped: Counter[str], notes: list[str]) -> Labels:
    """Yield the labels of annotations that are not cancelled; of a task with a ground truth, only those of it."""
    rates: dict[str, float] = {}
    for count, (_, _, task) in enumerate(json_items(path), 1):
        where = about = f"{path}, task {task.get('id', count)}"
        try:
            given = [one for one in task["annotations"] if not one.get("was_cancelled")]
            dropped.update(["a cancelled annotation"] * (len(task["annotations"]) - len(given)))
            names = [text for text in task["data"].values() if isinstance(text, str)]
            names.sort(key=lambda text: not _base(text).lower().endswith(VIDEO_SUFFIXES))
            for one in [one for one in given if one.get("ground_truth")] or given:
                who = one.get("completed_by")
                who = str(who.get("email", who.get("id")) if isinstance(who, dict) else who)
                for k, result in enumerate(one["result"], 1):
                    where, value = f"{about}, result {k}", result.get("value", {})
                    label = next((value[key] for key in VALUES if key in value), None)
                    frames, times = value.get("ranges") or [], [value] if {"start", "end"} <= value.keys() else []
                    if label is None or len(label) > 1 or not (frames or times):
                        dropped["a result without one label and its times"] += 1
                        continue
                    video, rate = _video(where, folder, names), task["data"].get("fps")
                    if frames and not rate:
                        rate = rates[video] = rates.get(video) or probe(video).fps
                    for part in frames or times:
                        start, stop = part["start"], part["end"]
                        if frames and start != stop:
                            start, stop = (max(start, 1) - 1) / float(rate), stop / float(rate)
                        yield where, who, video, start, stop, "".join(label)
        except DataError:
            raise
        except (AttributeError, ArithmeticError, LookupError, TypeError, ValueError) as error:
            raise DataError(f"{where}: not Label Studio's JSON ({error!r}); export it as JSON, not JSON-MIN") from error
    if rates.keys() and set(rates.values()) != {24.0}:
        notes.append(NOTE)
