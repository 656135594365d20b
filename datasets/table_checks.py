"""Find contradictions in a table of segments: what no reading makes right, and what may be meant.

    from egodistill.datasets import table_checks

    found = table_checks.find(segments, videos)       # the whole table at once; `videos` are headers, or None
    for note in table_checks.notes_of(found):         # raises DataError if one of them is an error
        print("note:", note)

`segments` and `prepare` do this. `KINDS` has a small function for each kind of contradiction. To add one, write a
generator that yields `(number of the segment, sentence, whether it is an error)`, and put it there.

Only a table of your own can have errors: it can be corrected, in the row that is named. Of public data sets and of
segments made in Python there are notes, and none of what is usual in public data sets, such as actions that overlap.
"""

from __future__ import annotations

import collections
import contextlib
import difflib
import functools
import os
import re
import stat
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import NamedTuple

from ..recordings.recording import SINCE_BOOT, VIDEO_SUFFIXES, open_recording
from ..support.defaults import CLIP_SECONDS
from ..support.errors import DataError, NoteWarning, named
from ..support.files import signature
from ..support.names import Names, is_same
from ..video import VideoInfo
from .segments import CALIBRATION, ROUNDING, Origin, Segment, SegmentList, overlapping_splits, with_names

__all__ = ["KINDS", "Finding", "TableWarning", "find", "notes_of"]


class TableWarning(NoteWarning):
    """A note about a table, as `data.prepare()` reports it."""


class Finding(NamedTuple):
    """A contradiction."""

    text: str  # one sentence, which names file and row
    is_error: bool  # whether no reading of the table is right


def find(
    segments: Sequence[Segment],
    videos: Mapping[str, VideoInfo] | None = None,
    *,
    origin: Origin | None = None,
    clip_seconds: float = CLIP_SECONDS,
) -> list[Finding]:
    """Return the contradictions of all segments of a table, a few lines for each kind.

    Times are compared with the ends in `videos`, {path: its header}, of `probe_videos()`. `origin` (None:
    `segments.origin`, if there is one) says where the segments come from, `clip_seconds` how they will be cut.

    >>> from pathlib import Path
    >>> from egodistill import data
    >>> from egodistill.datasets import table_checks
    >>> rows = ["walk.mp4,0,2.1,walk", "walk.mp4,2.1,4.2,Walk", "walk.mp4,0,2.1,stop"]
    >>> _ = Path("own.csv").write_text("\\n".join(["video,start,stop,label", *rows]))
    >>> for found in table_checks.find(data.read_csv("own.csv")):
    ...     print("error:" if found.is_error else "note:", found.text)
    error: own.csv, row 4: is row 2 again with the label 'stop' instead of 'walk'; a segment has one label
    note: own.csv, row 3: the label 'Walk' differs from 'walk' (row 2) only in case or blanks; write one of them
    """
    origin = getattr(segments, "origin", Origin()) if origin is None else origin
    table = _Table(segments, origin, videos or {}, clip_seconds)
    found = []
    for kind, most in KINDS:
        by_weight: dict[bool, list[tuple[int, str]]] = {True: [], False: []}
        for number, sentence, is_error in kind(table):
            by_weight[is_error and bool(origin.rows)].append((number, sentence))
        for is_error, lines in by_weight.items():
            shown = [f"{table.place(number)}: {sentence}" for number, sentence in lines[:most]]
            if len(lines) > most:
                shown[-1] += f" (and {len(lines) - most:,} more)"
            found += [Finding(text, is_error) for text in shown]
    about = f"{origin.table}: " if origin.table else ""
    return found + [Finding(f"{about}{note}", False) for note in origin.notes]


def notes_of(found: Iterable[Finding], *, strict: bool = False) -> list[str]:
    """Return the notes. Raise DataError with a line for each error; with `strict`, notes are errors, too."""
    found = list(found)
    notes = [one.text for one in found if not one.is_error]
    errors = [one.text for one in found if one.is_error]
    if strict and notes:
        errors += [*notes, f"with {named('strict', True)} notes are errors"]
    if errors:
        raise DataError("\n".join(errors))
    return notes


# ---------------------------------------------------------------------------------------------------------------
# A table as the kinds see it


class _Table:
    """Segments, the names of their places, and what several kinds need."""

    def __init__(
        self, segments: Sequence[Segment], origin: Origin, videos: Mapping[str, VideoInfo], clip_seconds: float
    ) -> None:
        self.segments = SegmentList(segments, origin=origin)
        self.origin, self.videos, self.clip_seconds = self.segments.origin, videos, clip_seconds
        self.is_own = bool(origin.rows) or not origin.table  # not a public data set

    @functools.cached_property
    def written(self) -> dict[int, Segment]:
        """Return {number: segment}: of a table of recordings the rows as they are written, each at its first clip."""
        parts = self.origin.parts
        if not parts:
            return dict(enumerate(self.segments))
        name = Names(one.path for one in self.segments)
        return {n: with_names(parts[one.id], name) for n, one in enumerate(self.segments) if one.id in parts}

    def name(self, number: int) -> str:
        """Return the place of a segment inside the table."""
        one = self.segments[number]
        place, link = self.origin.rows.get(one.id) or f"segment {one.id}", self.origin.links.get(one.id)
        return f"{place} ({link} is the file {Path(one.path).name})" if link else place

    def place(self, number: int) -> str:
        """Return the place of a segment with its table."""
        return f"{self.origin.table}, {self.name(number)}" if self.origin.table else self.name(number)

    @functools.cached_property
    def words(self) -> dict[str, dict[str, list[int]]]:
        """Return {column: {word: [number of its first segment, count of its segments]}}, in the table's order."""
        found: dict[str, dict[str, list[int]]] = {"label": {}, "split": {}, "wearer": {}}
        for column, words in found.items():
            for number, word in enumerate([getattr(segment, column) for segment in self.segments]):
                if word is not None:
                    words.setdefault(word, [number, 0])[1] += 1
        return found

    @functools.cached_property
    def twins(self) -> list[tuple[int, dict[tuple[str | None, str], int]]]:
        """Return the segments with the times of an earlier one, and {(label, split): first segment} at these times."""
        times = {n: (one.path, round(one.start, 3), round(one.stop, 3)) for n, one in self.written.items()}
        first: dict[tuple[str, float, float], int] = {}
        twins = [number for number, time in times.items() if first.setdefault(time, number) != number]
        known: dict[tuple[str, float, float], dict[tuple[str | None, str], int]] = collections.defaultdict(dict)
        for number in sorted({*twins, *(first[times[number]] for number in twins)}):
            one = self.written[number]
            known[times[number]].setdefault((one.label, one.split), number)
        return [(number, known[times[number]]) for number in twins]

    @functools.cached_property
    def recordings(self) -> list[int]:
        """Return the number of the first segment of each different recording."""
        found: dict[tuple, int] = {}
        for number, one in enumerate(self.segments):
            key = one.path, one.imu, one.wearer, one.imu_axes, one.imu_offset, one.imu_stretch
            found.setdefault(key, number)
        return list(found.values())


Found = Iterator[tuple[int, str, bool]]


def _segments(count: int) -> str:
    return f"{count:,} segment{'' if count == 1 else 's'}"


# ---------------------------------------------------------------------------------------------------------------
# Segments that contradict each other


def duplicate_rows(table: _Table) -> Found:
    """Yield segments that are in the table already, with the same label or without one."""
    for number, known in table.twins:
        one = table.segments[number]
        same = [(one.label, one.split), (None, one.split)] if one.label else list(known)[:1]
        again = next((known[key] for key in same if known.get(key, number) < number), None)
        if again is not None:
            yield number, f"repeats {table.name(again)}, so it counts twice; remove one", False


def conflicting_labels(table: _Table) -> Found:
    """Yield segments that are in the table already with another label."""
    for number, known in table.twins:
        own = table.segments[number].label
        others = ((label, again) for (label, _), again in known.items() if own and label not in (None, own))
        label, again = next(others, (None, number))
        if again < number:
            name = table.name(again)
            yield number, f"is {name} again with the label {own!r} instead of {label!r}; a segment has one label", True


def overlapping_labels(table: _Table) -> Found:
    """Yield segments that share more than half of the shorter one with an earlier one of another label."""
    if not table.is_own:
        return
    labelled = [number for number, one in enumerate(table.segments) if one.label is not None]
    twins = {number for number, _ in table.twins}
    found = []
    # {video: of two labels, the segment that ends last}: one of the two has another label than the next segment.
    latest: dict[str, list[int]] = collections.defaultdict(list)
    for number in sorted(labelled, key=lambda number: table.segments[number].start):
        one = table.segments[number]
        known = latest[one.path]
        if not known or table.segments[known[0]].stop <= one.start:
            known[:] = [number]
            continue
        for k in known:
            other = table.segments[k]
            shared = min(one.stop, other.stop) - one.start
            shorter = min(one.stop - one.start, other.stop - other.start)
            if other.label != one.label and shared > shorter / 2 + ROUNDING and number not in twins:
                found.append((number, k, shared))
                break
        same = next((k for k in known if table.segments[k].label == one.label), None)
        if same is not None and table.segments[same].stop < one.stop:
            known.remove(same)
        if same is None or same not in known:
            known.append(number)
        known.sort(key=lambda k: -table.segments[k].stop)
        del known[2:]
    for number, k, shared in sorted(found):
        own, other = table.segments[number].label, table.segments[k].label
        sentence = f"{shared:.1f} s with the label {own!r} are also in {table.name(k)} with {other!r}"
        yield number, f"{sentence}; shorten one, or leave it out", False


def overlapping_parts(table: _Table) -> Found:
    """Yield rows of a table of recordings that share more than a clip with an earlier part of the video."""
    if not table.origin.parts:
        return
    twins = {number for number, _ in table.twins}
    latest: dict[tuple[str, str], int] = {}  # {(video, split): the row that ends last}
    for number, one in sorted(table.written.items(), key=lambda row: row[1].start):
        known = latest.setdefault((one.path, one.split), number)
        stop = table.written[known].stop
        if known != number and number not in twins and min(one.stop, stop) - one.start > table.clip_seconds:
            sentence = f"begins at {one.start:.1f} s, but {table.name(known)} ends at {stop:.1f} s"
            yield number, f"{sentence}, so what they share counts twice; shorten one", False
        if one.stop > stop:
            latest[one.path, one.split] = number


def duplicate_ids(table: _Table) -> Found:
    """Yield segments with the id of an earlier one; in a table of your own this is an error when it is read."""
    ids = set()
    for number, one in enumerate(table.segments):
        if one.id in ids:
            yield number, "its id is that of an earlier segment, so results cannot name it; give it another one", False
        ids.add(one.id)


def moments_in_two_splits(table: _Table) -> Found:
    """Yield segments whose clips overlap those of another split, on which testing would be too easy."""
    numbers = {id(segment): number for number, segment in enumerate(table.segments)}
    overlaps = overlapping_splits(table.segments, table.clip_seconds)
    pairs = [(numbers[id(one)], numbers[id(other)]) for one, other in overlaps]
    for number, other in sorted(pairs):
        splits = f"{table.segments[number].split} and {table.segments[other].split}"
        sentence = f"its clips of {table.clip_seconds:.2f} s share moments of the video with {table.name(other)}"
        yield number, f"{sentence} of another split ({splits}); give both the same split", False


def segments_past_the_end(table: _Table) -> Found:
    """Yield segments that begin behind the end of their video, which are errors, or stop more than a clip behind it.

    These are errors if most do and another unit explains it. A video that was cut short has some such segments.
    """
    known = {number: one for number, one in table.written.items() if one.path in table.videos}
    outside = {number for number, one in known.items() if one.start >= table.videos[one.path].duration}
    late = {number: one for number, one in known.items() if number in outside or one.stop > _end(table, one)}
    are_most = 2 * len(late) > len(known)
    question = _other_unit(table, late.values()) if are_most else ""
    for number, one in late.items():
        what = f"starts at {one.start:.1f}" if number in outside else f"stops at {one.stop:.1f}"
        end = f"{table.videos[one.path].duration:.1f}"
        recording = "video ends" if one.video else "samples end"
        sentence = f"{what} s, but the {recording} at {end} s; {question or 'correct the row'}"
        yield number, sentence, number in outside or bool(question)


def _end(table: _Table, one: Segment) -> float:
    """Return the time from which on a stop is too late: a clip after the end of the video."""
    return table.videos[one.path].duration + table.clip_seconds


def _other_unit(table: _Table, late: Iterable[Segment]) -> str:
    """Return a question that names the unit in which all these segments are inside their videos, or ""."""
    ends = [(one, _end(table, one)) for one in late]
    if all(one.start <= end and one.start < one.stop / 1000 <= end for one, end in ends):
        return "is the column stop in milliseconds? Divide it by 1000"
    whole = all(one.start.is_integer() and one.stop.is_integer() for one, _ in ends)
    if whole and all(one.stop <= end * table.videos[one.path].fps for one, end in ends):
        return "are the times frame numbers? Divide them by the frame rate"
    for unit, parts in (("milliseconds", 1000), ("microseconds", 1_000_000)):
        if all(one.stop / parts <= end and one.stop - one.start >= SHORTEST * parts for one, end in ends):
            return f"are the times {unit}? Divide them by {parts}"
    return ""


SHORTEST = 0.1  # seconds of a segment


# ---------------------------------------------------------------------------------------------------------------
# Names that contradict each other


def spelling_variants(table: _Table) -> Found:
    """Yield labels, splits and wearers that are another spelling of an earlier one: an error if it cannot be seen."""
    for column, words in table.words.items():
        known: dict[str, dict[str, str]] = collections.defaultdict(dict)  # {folded: {how it looks: word}}
        for word, (number, _) in words.items():
            look = _look(word)
            alike = known[_folded(look)]
            if look in alike:
                place = table.name(words[alike[look]][0])
                sentence = f"the {column} {word!a} looks like {alike[look]!a} ({place}), but has other characters"
                yield number, f"{sentence}; write one of them", True
            elif alike:
                other = next(iter(alike.values()))
                sentence = f"the {column} {word!r} differs from {other!r} ({table.name(words[other][0])})"
                yield number, f"{sentence} only in case or blanks; write one of them", column == "split"
            alike.setdefault(look, word)


def probable_typos(table: _Table) -> Found:
    """Yield labels of up to three segments that are one or two letters from one of five times as many or more."""
    words = table.words["label"] if table.is_own else {}
    for word, (number, count) in words.items():
        often = (other for other, (_, more) in words.items() if count <= 3 and more >= 5 * count)
        if other := next((other for other in often if _is_typo(_folded(word), _folded(other))), None):
            sentence = f"the label {word!r} ({_segments(count)}) is one or two letters from {other!r}"
            yield number, f"{sentence} ({_segments(words[other][1])}); correct it if that is meant", False


def _is_typo(word: str, other: str) -> bool:
    """Return whether two words differ in one or two letters, and in no digit."""
    if abs(len(word) - len(other)) > 2 or re.findall(r"\d", word) != re.findall(r"\d", other):
        return False
    match = difflib.SequenceMatcher(None, word, other)
    edits = sum(max(b - a, d - c) for kind, a, b, c, d in match.get_opcodes() if kind != "equal")
    return 0 < edits <= 2 and match.ratio() >= 0.75  # of "cut" and "put" it is 0.67, of "puor" and "pour" 0.75


# Letters that look like Latin ones: Cyrillic capitals, small ones, and Greek ones.
ALIKE = str.maketrans(
    "\u0410\u0412\u0415\u041a\u041c\u041d\u041e\u0420\u0421\u0422\u0425\u0405\u0406\u0408"
    "\u0430\u0435\u043e\u0440\u0441\u0443\u0445\u0455\u0456\u0458\u0501\u051b"
    "\u0391\u0392\u0395\u0396\u0397\u0399\u039a\u039c\u039d\u039f\u03a1\u03a4\u03a5\u03a7\u03bf\u03bd",
    "ABEKMHOPCTXSIJaeopcyxsijdqABEZHIKMNOPTYXov",
)


def _look(word: str) -> str:
    """Return what a word looks like: composed, without invisible characters, with Latin letters and plain blanks."""
    if word.isascii() and word.isprintable():
        return word
    seen = unicodedata.normalize("NFC", "".join(sign for sign in word if not _is_invisible(sign)))
    return "".join(" " if unicodedata.category(sign) == "Zs" else sign for sign in seen).translate(ALIKE).strip()


# What Unicode calls default ignorable, beside the categories Cf (format) and Cc (control).
IGNORABLE = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2065\u3164\ufe00-\ufe0f\uffa0\ufff0-\ufff8\U000e0000-\U000e0fff]"
)


def _is_invisible(sign: str) -> bool:
    return (unicodedata.category(sign) in ("Cf", "Cc") and not sign.isspace()) or bool(IGNORABLE.match(sign))


def _folded(look: str) -> str:
    """Return a word without case, compatibility forms, and what separates its parts; the sign of a number stays."""
    return re.sub(r"(?:(?!(?<![^\s_])-\.?\d)[\s_-])+", " ", unicodedata.normalize("NFKC", look).casefold()).strip()


MISSING = {"nan", "none", "null", "na", "n/a", "#n/a", "<na>", "nat", "nil", "undefined", "-", "--", "?"}


def placeholder_labels(table: _Table) -> Found:
    """Yield labels and wearers that programs write into empty cells."""
    for column in ("label", "wearer"):
        for word, (number, count) in table.words[column].items():
            if word.lower() in MISSING:
                sentence = f"the {column} {word!r} ({_segments(count)}) is a name like any other"
                yield number, f"{sentence}; leave the cell empty if there is none", False


# An exponent has a sign, as programs write it: 1e2 may be hexadecimal.
NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)(e[+-]\d{1,4})?", re.ASCII | re.IGNORECASE)


def same_numbers(table: _Table) -> Found:
    """Yield labels and wearers that are an earlier number in another spelling: an error of labels."""
    for column in ("label", "wearer"):
        words = table.words[column]
        known: dict[Decimal, str] = {}
        for word in filter(NUMBER.fullmatch, words):
            if (other := known.setdefault(Decimal(word), word)) != word:
                sentence = f"the {column} {word!r} is the number {other!r} ({table.name(words[other][0])})"
                yield words[word][0], f"{sentence} in another spelling; write one of them", column == "label"


def numbers_among_words(table: _Table) -> Found:
    """Yield the first label that is a number if others are words."""
    words = table.words["label"]
    numbers = dict.fromkeys(filter(NUMBER.fullmatch, words))
    names = {one.label for one in table.segments if one.label and not one.is_background} - {*numbers}
    if numbers and any(name.lower() not in MISSING for name in names):
        word, count = next(iter(numbers)), sum(words[word][1] for word in numbers)
        sentence = f"the label {word!r} is a number, but other labels are words ({_segments(count)} have numbers)"
        yield words[word][0], f"{sentence}; write the names of the classes", False


USUAL = ("train", "test", "validation", CALIBRATION)
OTHERWISE = {"training": "train", **dict.fromkeys(("eval", "evaluate", "evaluation"), "test")}
OTHERWISE |= dict.fromkeys(("val", "valid", "dev", "develop", "validate"), "validation")


def unusual_splits(table: _Table) -> Found:
    """Yield splits that commands do not read unless they are named."""
    if table.origin.drawn:
        return
    words = table.words["split"]
    for word, (number, count) in words.items():
        folded = _folded(_look(word))
        if word in USUAL or (folded in USUAL and folded in words):  # spelling_variants() has the second
            continue
        similar = difflib.get_close_matches(folded, USUAL, 1)
        usual = OTHERWISE.get(folded) or (similar[0] if similar else "")
        hint = f"usual is {usual!r}" if usual else f"usual are {', '.join(map(repr, USUAL))}"
        hint = f"write {usual!r}" if usual == folded else hint
        yield number, f"the split {word!r} ({_segments(count)}) is read only by a command that names it; {hint}", False


def classes_in_one_split(table: _Table) -> Found:
    """Yield the first class without segments for training, and the first without any for testing, with the others."""
    words = table.words["label"]
    for split, so in (("train", "so students cannot learn"), ("test", "so nothing says how well students know")):
        if split not in table.words["split"] or (split == "test" and not table.is_own):
            continue
        there = {one.label for one in table.segments if one.split == split or one.is_background}  # that is for training
        missing = [word for word in words if word not in there]
        if missing:
            what, them = ("1 class has", "it") if len(missing) == 1 else (f"{len(missing):,} classes have", "them")
            names = ", ".join(map(repr, missing[:LISTED])) + (", ..." if len(missing) > LISTED else "")
            yield words[missing[0]][0], f"{what} no segment with the split {split}, {so} {them}: {names}", False


LISTED = 20  # names in a line


def wearers_in_two_splits(table: _Table) -> Found:
    """Yield wearers with segments for training and others."""
    if table.origin.drawn:
        return
    first: dict[str, dict[str, int]] = collections.defaultdict(dict)  # {wearer: {split: segment}}
    for number, one in enumerate(table.segments):
        if one.wearer is not None:
            first[one.wearer].setdefault(one.split, number)
    for wearer, splits in first.items():
        other = next((split for split in splits if split not in ("train", CALIBRATION)), None)
        if "train" in splits and other is not None:
            sentence = f"the wearer {wearer!r} is in {other} here and in train in {table.name(splits['train'])}"
            way_out = "so accuracy is not that for new people; give each wearer one split"
            yield splits[other], f"{sentence}, {way_out}", False


# ---------------------------------------------------------------------------------------------------------------
# Recordings that contradict each other


def imu_files_of_other_videos(table: _Table) -> Found:
    """Yield recordings whose IMU is that of another video: shared with it, named like it, or in its folder."""
    if not table.is_own:
        return
    names: dict[str, int] = {}
    folders: dict[str, int] = {}
    for number in table.recordings:
        video = Path(table.segments[number].path)
        names.setdefault(video.stem, number)
        folders.setdefault(str(video.parent), number)
    users: dict[str, int] = {}
    videos_in = functools.cache(_videos_in)
    is_since_boot = functools.cache(lambda number: table.segments[number].recording.is_since_boot())
    done = set()
    for number in table.recordings:
        one = table.segments[number]
        if (one.path, one.imu) in done:
            continue
        done.add((one.path, one.imu))
        for imu in map(Path, _files(one)):
            user = users.setdefault(str(imu), number)
            video, stem = Path(one.path), re.sub(r"(?i)[-_. ](accl?|accel|gyro?|imu)$", "", imu.stem)
            sentence, is_error, first = "", False, table.segments[user]
            if first.path != one.path:
                if abs(first.imu_offset - one.imu_offset) <= MAX_OFFSET:
                    is_error = first.imu_offset == one.imu_offset and is_since_boot(user)
                    sentence = f"is also that of {_video(table, user)}; {SHARED[is_error]}"
            elif stem != video.stem and stem in names:
                sentence = f"has the name of another video, {_video(table, names[stem])}; give that of {video.name}"
            elif stem != video.stem and video.parent != imu.parent and str(imu.parent) in folders:
                other = _video(table, folders[str(imu.parent)])
                sentence = f"lies beside another video, {other}; give that of {video.name}"
            elif stem != video.stem and (beside := videos_in(imu.parent).get(stem)) and _is_other(beside, video):
                sentence = f"has the name of another video, {beside.name}; give that of {video.name}"
            if sentence:
                yield number, f"the IMU {imu.name} {sentence}", is_error
                break  # the other file of a pair adds nothing


MAX_OFFSET = 2.0  # seconds: a larger one is not a clock that is a little off
SHARED = {  # whether the times count from boot
    False: "each video has its own, or its own imu_offset in a long one",
    True: f"its times are {SINCE_BOOT}, so nothing says where a video begins in it; give each row its imu_offset",
}


def _videos_in(folder: Path) -> dict[str, Path]:
    """Return the videos of a folder by their names without suffix."""
    with contextlib.suppress(OSError):
        return {path.stem: path for path in folder.iterdir() if path.suffix.lower() in VIDEO_SUFFIXES}
    return {}


def _is_other(beside: Path, video: Path) -> bool:
    """Return whether a video beside an IMU is not the one that uses it, which has an IMU of its own."""
    with contextlib.suppress(ValueError, OSError):
        return not is_same(beside, video) and open_recording(video).imu is not None
    return False


def _files(one: Segment) -> tuple[str, ...]:
    return (one.imu,) if isinstance(one.imu, str) else one.imu or ()


def _video(table: _Table, number: int) -> str:
    return f"{Path(table.segments[number].path).name} ({table.name(number)})"


def copied_videos(table: _Table) -> Found:
    """Yield the first segment of each video whose file has the same content as that of an earlier video."""
    first: dict[str, int] = {}
    splits: dict[str, dict[str, None]] = collections.defaultdict(dict)  # {video: its splits in their order}
    for number, one in enumerate(table.segments):
        first.setdefault(one.path, number)
        splits[one.path][one.split] = None
    for copy, video in _copies(first).items():
        same_name = Path(copy).name == Path(video).name
        names = (copy, video) if same_name else (Path(copy).name, Path(video).name)
        sentence = f"{names[0]} is a copy of {names[1]} ({table.name(first[video])})"
        if splits[copy].keys() == splits[video].keys():
            sentence = f"{sentence}, so what is in both may count twice"
        else:
            both = f"{', '.join(splits[copy])} here, {', '.join(splits[video])} there"
            sentence = f"{sentence} with another split ({both}), so testing may be too easy"
        yield first[copy], f"{sentence}; use one of the files", False


def _copies(paths: Iterable[str]) -> dict[str, str]:
    """Return {path: the first path with the same content} of different files; those that cannot be read are left out.

    Only files of one size are read, and of these only the two ends.
    """
    sizes: dict[int, list[str]] = collections.defaultdict(list)
    for path in paths:
        with contextlib.suppress(OSError, ValueError):
            status = os.stat(path)
            if stat.S_ISREG(status.st_mode) and status.st_size:
                sizes[status.st_size].append(path)
    found, known = {}, dict[str, str]()
    for path in (path for alike in sizes.values() if len(alike) > 1 for path in alike):
        with contextlib.suppress(OSError):
            first = known.setdefault(signature(path), path)
            if first != path:
                found[path] = first
    return found


def two_in_one_recording(table: _Table) -> Found:
    """Yield recordings that have another IMU, wearer, axes or clock in an earlier row."""
    if not table.is_own:
        return
    known: dict[tuple, tuple[int, str]] = {}  # {what of which recording: (segment, its value)}
    done = set()
    for number in table.recordings:
        one = table.segments[number]
        imus = " and ".join(Path(file).name for file in _files(one)) or "none"
        wearer = "none" if one.wearer is None else repr(one.wearer)
        clock = f"{one.imu_offset:g}, {one.imu_stretch:g}"
        for what, recording, value, is_error in (
            ("video has the IMU", one.path, imus, False),
            (f"{'video' if one.video else 'IMU'} has the wearer", one.path, wearer, False),
            ("IMU has the axes", (one.path, one.imu), repr(one.imu_axes), True),
            ("IMU has the offset and stretch", (one.path, one.imu), clock, False),
        ):
            first, other = known.setdefault((what, recording), (number, value))
            if value == other or (what, recording, value) in done:
                continue
            done.add((what, recording, value))
            if not (value is imus and "none" in (value, other) and _are_beside(table, number, first)):
                sentence = f"its {what} {value} here and {other} in {table.name(first)}; a recording has one"
                yield number, sentence, is_error


def _are_beside(table: _Table, *numbers: int) -> bool:
    """Return whether all IMUs of these segments are in the folders of their videos, where unnamed ones are found."""
    found = [table.segments[number] for number in numbers]
    return all(os.path.dirname(imu) == os.path.dirname(one.path) for one in found for imu in _files(one))


# Each kind of contradiction, with the number of lines that it may have.
KINDS: tuple[tuple[Callable[[_Table], Found], int], ...] = (
    (duplicate_rows, 1),
    (conflicting_labels, 1),
    (overlapping_labels, 1),
    (overlapping_parts, 1),
    (duplicate_ids, 1),
    (spelling_variants, 5),
    (probable_typos, 5),
    (placeholder_labels, 5),
    (same_numbers, 5),
    (numbers_among_words, 1),
    (unusual_splits, 5),
    (classes_in_one_split, 2),
    (wearers_in_two_splits, 1),
    (moments_in_two_splits, 1),
    (copied_videos, 5),
    (imu_files_of_other_videos, 1),
    (two_in_one_recording, 5),
    (segments_past_the_end, 1),
)
