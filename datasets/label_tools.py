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

import contextlib
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from urllib.parse import unquote

from ..recordings.recording import VIDEO_SUFFIXES
from ..support.errors import DataError, named
from ..support.names import Names, shortest_unique_suffixes
from ..support.records import first_line, json_items, number, open_text, read_table, start_and_stop
from ..video import probe
from .segments import Origin, Segment, SegmentList, Windows, drawn_splits

__all__ = ["label_reader", "read_labels"]

Labels = Iterator[tuple[str, str, str, str, str, str]]  # (place in the file, tier, video, start, stop, class)

# What a cell of ELAN is, by itself or by the end of its header, which begins in any language: c a clock, s seconds,
# m milliseconds, f a clock with frames, e an .eaf; other cells are x.
CELLS = {"c": r"\d+:\d\d:\d\d\.\d+", "s": r"\d+\.\d+(E\d+)?", "m": r"\d+", "f": r"(\d\d[:;]){3}\d\d", "e": r".+\.eaf"}
HEADS = {"c": r".+ - hh:mm:ss\.ms", "s": r".+ - ss\.msec", "m": r".+ - msec", "f": r".+ - (PAL|PAL-50fps|NTSC.*)"}
TIMES = re.compile(r"(cs?m?f?|sm?f?|mf?)\1(\1)?(?=[^ecf])")  # begin, end, perhaps duration; a value is behind
LINKED = re.compile(r'"?#([^\t]*?)(?: -- offset: (-?\d+))?"?\s*')  # a medium of the next rows, or their .eaf
# {what the name and the first line of another export begin with: what to export instead}
OTHERS = {
    r".*\.eaf\n": "ELAN's own file; use File > Export As > Tab-delimited Text",
    r".*\.boris\n": "a project of BORIS; use Observations > Export aggregated events, as TSV or CSV",
    r".*\n(?=.*\bannotation_id\b).*\blead_time\b": "a table of Label Studio, where JSON is complete; export it as JSON",
}
VALUES = ("timelinelabels", "timeserieslabels", "labels")  # of a result of Label Studio
NOTE = "frames are counted at the rate of each video; write another frameRate of the Video tag into the data as fps"


def label_reader(path: Path) -> Callable[[Path, Path, Counter[str], list[str]], Labels] | None:
    """Return the reader for an export of one of the tools; None for another file. DataError names what to export."""
    line = first_line(path)
    if line.lstrip().startswith("["):
        return _label_studio
    for form, way_out in OTHERS.items():
        if re.match(form, f"{path.name}\n{line}", re.IGNORECASE):
            raise DataError(f"{path}: is {way_out}")
    if re.match(r'"?observation id\b', line, re.IGNORECASE):
        return _boris
    rows = "\t" in line and TIMES.search(_kinds(line.split("\t"), CELLS))
    return _elan if rows or LINKED.fullmatch(line) or re.search(r" - (hh:mm:ss\.ms|ss\.msec|msec)\b", line) else None


def read_labels(
    annotations: str | os.PathLike, root: str | os.PathLike | None = None, *, tier: str | None = None
) -> SegmentList:
    """Read the labels of ELAN (tab-delimited text), BORIS (aggregated events) or Label Studio (JSON).

    The class is the value of an annotation, the behaviour or the label. `.dropped` counts point events, empty values
    and what has no times. A video is found by its path or its name; for ELAN also by that of the .eaf or of the file.
    Frames of Label Studio are counted at `fps` of the task's data, or at the rate of the video. Of several videos, 30 %
    are drawn for testing. Raise DataError that names the file, and the line, or the task and the result.

    Args:
        annotations: The file.
        root: The folder with videos and IMU files, by default that of the file.
        tier: Read only this tier of ELAN, subject of BORIS or annotator of Label Studio (e-mail or number). It must be
            given if labels of two of them overlap.

    >>> from pathlib import Path
    >>> from egodistill import data
    >>> size = Path("walk.txt").write_text("hands\\t\\t00:00:01.500\\t00:00:04.000\\topen\\n")
    >>> [(one.video, one.label, one.start, one.stop) for one in data.read_labels("walk.txt")]
    [('walk.mp4', 'open', 1.5, 4.0)]
    """
    path, dropped, notes = Path(annotations), Counter[str](), list[str]()
    if (reader := label_reader(path)) is None:
        raise DataError(f"{path}: not tab-delimited text of ELAN, aggregated events of BORIS or JSON of Label Studio")
    every = list(reader(path, Path(root or path.parent), dropped, notes))
    listed = ", ".join(f"{own!r} ({count})" for own, count in Counter(label[1] for label in every).items())
    labels = [label for label in every if tier in (None, label[1])]
    name = Names()
    drawn = shortest_unique_suffixes({name(label[2]) for label in labels})  # so that splits do not depend on the folder
    splits = drawn_splits(drawn.values(), Windows())
    found, rows, tiers = list[Segment](), dict[str, str](), dict[str, str]()
    left_out = list[Segment]()
    for where, own, video, start, stop, label in every:
        if tier not in (None, own) or not label:
            with contextlib.suppress(DataError):  # such as a point event
                left_out.append(Segment("", name(video), *start_and_stop(where, start, stop)))
    for where, own, video, start, stop, label in labels:
        if start == stop or not label:
            dropped["a point event" if label else "an empty value"] += 1
            continue
        own_id, video = f"{Path(video).stem}_{len(found)}", name(video)
        rows[own_id], tiers[own_id] = where.removeprefix(f"{path}, "), own
        split = splits[drawn[video]]
        found.append(Segment(own_id, video, *start_and_stop(where, start, stop), label, split=split))
    if not found:
        chosen = f" of {named('tier', tier)}" if tier else ""
        why = ", ".join(f"{reason}: {count}" for reason, count in dropped.items())
        raise DataError(
            f"{path}: no labelled segment{chosen}; its tiers: {listed or 'none'}; left out: {why or 'nothing'}"
        )
    last, *others = sorted(found, key=lambda one: (one.video, one.start))
    for one in others:
        shared = last.video == one.video and last.stop > one.start
        if shared and tiers[last.id] != tiers[one.id]:
            both = f"{one.label!r} of {tiers[one.id]!r} overlaps {last.label!r} of {tiers[last.id]!r} ({rows[last.id]})"
            raise DataError(f"{path}, {rows[one.id]}: {both}; choose one by {named('tier')} of {listed}")
        last = last if shared and last.stop > one.stop else one
    about = {"notes": tuple(dict.fromkeys(notes)), "left_out": tuple(left_out)}
    return SegmentList(found, dropped, Origin(str(path), rows, drawn=True, **about))


def _kinds(cells: Sequence[str], forms: dict[str, str]) -> str:
    """Return a letter for each cell."""
    return "".join(next((k for k, form in forms.items() if re.fullmatch(form, cell.strip())), "x") for cell in cells)


def _video(where: str, folder: Path, names: Iterable[object], advice: str = "") -> str:
    """Return the first video that exists; a name is a path or an address of it, or of a file with its stem."""
    texts = [name for name in names if isinstance(name, str)]
    for name in sorted(texts, key=lambda name: not any(suffix in name.lower() for suffix in VIDEO_SUFFIXES)):
        # Label Studio's addresses have a file behind ?d=, or eight digits before the name of an uploaded one.
        base = re.split(r"[/\\]", re.sub(r".*[?&]d=|\?.*", "", unquote(name)))[-1]
        stem, suffix = os.path.splitext(base)
        tried = [stem + end for low in VIDEO_SUFFIXES for end in (low, low.upper())]
        if suffix.lower() in VIDEO_SUFFIXES:
            tried = [unquote(name).removeprefix("file://"), base, re.sub(r"^[0-9a-f]{8}-", "", base)]
        if found := next((one for one in tried if os.path.isfile(folder / one)), None):
            return str(folder / found)
    raise DataError(
        f"{where}: no video of {texts} in {folder}; put it there, or give its folder as {named('root')}{advice}"
    )


def _elan(path: Path, folder: Path, dropped: Counter[str], notes: list[str]) -> Labels:
    """Yield annotations. A row has tier, participant, times and value, or times and a value for each tier."""
    header, linked, times, begun, columns = [], [], None, False, (0, 0)
    with open_text(path) as file:
        for count, line in enumerate(file, 1):
            where, cells = f"{path}, line {count}", [cell.strip() for cell in line.split("\t")]
            if found := LINKED.fullmatch(line):
                linked, begun = [*([] if begun else linked), found], False
                continue
            if times is None and any(cells):
                header = cells if TIMES.search(_kinds(cells, HEADS)) else []
                times = TIMES.search(_kinds(cells, HEADS)) if header else _times(where, cells)
                if times is not None:
                    columns = _tier_and_value(where, header, times)
            if not any(cells) or cells == header:
                continue
            if times is None or len(cells) <= max(columns[1], times.end(1)):
                needed = "begin and end (hh:mm:ss.ms, ss.msec or msec) and a value"
                raise DataError(f"{where}: no {needed}; export tab-delimited text with them")
            begun, (start, stop) = True, (cells[times.start()], cells[times.end(1)])
            if any(one[2] not in (None, "0") for one in linked if one[1].lower().endswith(VIDEO_SUFFIXES)):
                advice = "export with 'Add master media time offset', and write 0 into the line of the video"
                raise DataError(f"{where}: the video has an offset, which its times may lack; {advice}")
            if times[1][0] == "m":
                start, stop = (f"{float(text) / 1000:.3f}" if text.isdecimal() else text for text in (start, stop))
            files = [cell for cell in cells if _kinds([cell], CELLS) == "e"]
            names = [*(one[1] for one in linked), *files]
            advice = "" if names else "; or name this export, which has no path of a video, like its video"
            video = _video(where, folder, [*names, path.name], advice)
            pairs = [(cells[columns[0]] if times.start() else "", cells[columns[1]])]
            if header and not times.start():
                pairs = [*zip(header[times.end() :], cells[times.end() :], strict=False)]
            filled = [pair for pair in pairs if pair[1] not in ("", *files)] or [(pairs[0][0], "")]
            yield from ((where, tier, video, start, stop, value) for tier, value in filled)


def _times(where: str, cells: Sequence[str]) -> re.Match[str] | None:
    """Return which cells of a row without header are its times; a participant or a class may be a number, too.

    Of runs of milliseconds it is the one whose duration is its end minus its begin. Raise DataError without such a one.
    """
    kinds, number = _kinds(cells, CELLS), [float(cell) if cell.isdecimal() else 0.0 for cell in cells]
    runs = [run for k in range(len(kinds)) if (run := TIMES.match(kinds, k))]
    form = min((run[1] for run in runs), key=lambda form: ("csm".index(form[0]), -len(form)), default="")
    runs = [run for run in runs if run[1] == form]  # times with a point before others
    if form == "m" and len(runs) > 1:
        fit = [run for run in runs if run[2] and number[(k := run.start()) + 1] - number[k] == number[k + 2]]
        if len(fit) != 1:
            read = " or ".join(f"{cells[run.start()]} and {cells[run.end(1)]}" for run in fit or runs)
            header = "Tier, Participant, Begin Time - msec, End Time - msec, Value"
            raise DataError(f"{where}: are begin and end {read}? Export hh:mm:ss.ms, too, or write a header: {header}")
        return fit[0]
    return next(iter(runs), None)


def _tier_and_value(where: str, header: Sequence[str], times: re.Match[str]) -> tuple[int, int]:
    """Return the columns of tier and value. ELAN writes such rows without a header, so a person named the columns."""
    if not header or not times.start():
        return 0, times.end()
    names = [name.lower() for name in header]
    values = [k for k, name in enumerate(names) if name in ("value", "annotation", "label")]
    if len(values) != 1:
        raise DataError(f"{where}: which of {', '.join(map(repr, header))} is the class? Name this column alone Value")
    return names.index("tier") if "tier" in names else 0, values[0]


def _boris(path: Path, folder: Path, dropped: Counter[str], notes: list[str]) -> Labels:
    """Yield the behaviours of observations, whose times include the offset of the observation."""
    header, videos = first_line(path), dict[str, str]()
    if "start (s)" not in header.lower():
        raise DataError(f"{path}: no column Start (s); use Observations > Export aggregated events, as TSV or CSV")
    columns, sign = ("start (s)", "stop (s)"), "\t" if "\t" in header else ","
    for where, row in read_table(path, ("observation id", "behavior", *columns), delimiter=sign):
        name = row.get("source", "").partition("|")[0].removeprefix("player #1:") or row.get("media file", "")
        if ";" in name or videos.setdefault(row["observation id"], name) != name:
            raise DataError(f"{where}: its observation has several videos; make an observation of each video")
        is_point = row.get("behavior type", "").upper() == "POINT" or row["stop (s)"] in ("", "NA")
        offset = number(where, "time offset (s)", row.get("time offset (s)") or 0)
        start, stop = (0.0 if is_point else round(number(where, key, row[key]) - offset, 3) + 0.0 for key in columns)
        yield where, row.get("subject", ""), _video(where, folder, [name]), str(start), str(stop), row["behavior"]


def _label_studio(path: Path, folder: Path, dropped: Counter[str], notes: list[str]) -> Labels:
    """Yield the labels of annotations that are not cancelled; of a task with a ground truth, only those of it."""
    for count, (where, _, task) in enumerate(json_items(path), 1):
        try:
            about = where = f"{path}, task {task.get('id', count)}"
            given = [one for one in task["annotations"] if not one.get("was_cancelled")]
            dropped.update(["a cancelled annotation"] * (len(task["annotations"]) - len(given)))
            for one in [one for one in given if one.get("ground_truth")] or given:
                who = one.get("completed_by")
                who = who.get("email", who.get("id")) if isinstance(who, dict) else who
                for k, result in enumerate(one["result"], 1):
                    where, value, fps = f"{about}, result {k}", result.get("value", {}), task["data"].get("fps")
                    label = next((value[key] for key in VALUES if key in value), None)
                    parts = value.get("ranges") or ([value] if {"start", "end"} <= value.keys() else [])
                    if label is None or len(label) > 1 or not parts:
                        dropped["a result without one label and its times"] += 1
                        continue
                    video = _video(where, folder, task["data"].values())
                    rate = number(where, "fps", fps or probe(video).fps) if "ranges" in value else 0.0
                    notes += [NOTE] if rate and not fps else []
                    for start, stop in ((part["start"], part["end"]) for part in parts):
                        if rate and start != stop:
                            start, stop = (max(start, 1) - 1) / rate, stop / rate
                        yield where, str(who), video, str(start), str(stop), "".join(label).strip()
        except (AttributeError, ArithmeticError, LookupError, TypeError) as error:
            raise DataError(f"{where}: not Label Studio's JSON ({error!r}); export it as JSON, not JSON-MIN") from error
