"""Background: clips of what no segment of a recording covers, in which nothing happens that has a label.

    from egodistill import data

    segments = data.with_background(data.read_csv("segments.csv"), 200)     # 200 more, of the class "(none)"
    store = data.prepare(segments, "store")

A student knows only what it has learned, so without such clips it gives all of a recording one of its classes. They are
ordinary segments with the label `defaults.NONE`, and a table may have rows with this label, too. Whether a part without
a label is background depends on who labelled: where all that happens has a label, it is; where somebody labelled a few
examples, it is full of the same actions. `SPARSE` tells one from the other.
"""

from __future__ import annotations

import collections
import dataclasses
import hashlib
import math
import numbers
import os
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from ..recordings.recording import probe_videos
from ..support.defaults import CLIP_SECONDS, NONE
from ..support.errors import DataError, NoteWarning, named
from ..support.files import available_cores
from ..support.names import shortest_unique_suffixes
from ..support.tables import pluralize
from .segments import ROUNDING, Origin, Segment, SegmentList

__all__ = ["require_dense", "room", "with_background"]

MARGIN = 0.5  # seconds: annotators differ by some tenths; twice as much costs a fifth of the room in EPIC-KITCHENS
SPARSE = 0.1  # share of a recording with labels; of 193 recordings of EPIC-KITCHENS each has 0.18 or more, half 0.7


def with_background(
    segments: Sequence[Segment],
    count: int,
    *,
    margin: float = MARGIN,
    sparse: bool = False,
    clip_seconds: float = CLIP_SECONDS,
) -> SegmentList:
    """Return the segments with background: clips of the class "(none)" from training recordings, where no segment is.

    They lie between segments for training, or between one and an end of the recording, and each recording gives in
    proportion to its room. Which ones they are depends on the segments and the names of the recordings alone, not on
    the folder or the order of the rows. A NoteWarning says how many seconds they take of which recordings, and if there
    is room for less than `count`.

    Args:
        segments: The segments. All of them count as covered, also those without a label, and what their reader left
            out although it has times.
        count: How many clips to add, over all recordings.
        margin: Seconds between a background clip and the nearest segment or end of the recording.
        sparse: Take them also from recordings of which less than a tenth is covered, and of Ego4D, where what has no
            label may be an action that nobody labelled.
        clip_seconds: Length of a clip, as that of `prepare()`.

    Raises:
        DataError: A recording has few labels, see `sparse`; no segment has a label; there is no room for a clip.

    >>> from egodistill import data
    >>> parts = [data.Segment("a", "walk.mp4", 1.0, 9.0, "walk"), data.Segment("b", "walk.mp4", 15.0, 20.0, "look")]
    >>> [(one.label, round(one.start, 2)) for one in data.with_background(parts, 2)]
    [('walk', 1.0), ('look', 15.0), ('(none)', 9.68), ('(none)', 12.18)]
    """
    if isinstance(count, bool) or not isinstance(count, numbers.Integral) or count < 1:
        raise DataError(f"{named('count', option='--background')} must be a whole number, at least 1; got {count!r}")
    if not 0 <= margin < math.inf:
        raise DataError(f"margin must be at least 0 s, and finite; got {margin!r}")
    given = segments if isinstance(segments, SegmentList) else SegmentList(segments)
    about = f"{given.origin.table}: " if given.origin.table else ""
    if all(one.label is None for one in given):
        raise DataError(f"{about}no segment has a label, so nothing says where background is; label what happens")
    first: dict[str, Segment] = {}  # of each training recording
    for one in sorted(given, key=lambda one: one.start):
        if one.split == "train":
            first.setdefault(one.path, one)
    rooms = _rooms(given, first, margin, clip_seconds)
    if not sparse:
        require_dense(rooms, given.origin)
    slots = _slots(rooms)
    if not slots:
        raise DataError(
            f"{about}no training recording has {clip_seconds + 2 * margin:.1f} s without a segment (a clip, and "
            f"{margin:g} s before and after it), so there is no room for background; leave it out, or add recordings"
        )
    added: dict[str, list[Segment]] = collections.defaultdict(list)
    for number, (_, start, path) in enumerate(sorted(slot[1:] for slot in slots[:count]), len(given)):
        fields = {"id": f"{Path(path).stem}_none_{number}", "start": start, "stop": start + clip_seconds}
        added[path].append(dataclasses.replace(first[path], label=NONE, **fields))
    lacking = f"; there is room for no more, {count:,} were wanted" if len(slots) < count else ""
    warnings.warn(_note(added, rooms, clip_seconds) + lacking, NoteWarning, stacklevel=2)
    last = {one.path: number for number, one in enumerate(given)}  # a recording's clips stay together in a store
    parts = ([one, *(added[one.path] if last[one.path] == number else ())] for number, one in enumerate(given))
    return SegmentList((one for part in parts for one in part), given.dropped, given.origin)


class Room(NamedTuple):
    """What segments leave of a recording, in seconds."""

    length: float
    covered: float
    starts: list[float]  # of the clips for which there is room


def _rooms(given: SegmentList, first: Mapping[str, Segment], margin: float, seconds: float) -> dict[str, Room]:
    """Return the room in each of the recordings of segments, `first`, that can be opened."""
    rows: dict[str, list[Segment]] = collections.defaultdict(list)
    for one in (*given, *given.origin.left_out):
        rows[one.path].append(one)
    stops = {path: info.duration for path, info in probe_videos(first.values(), available_cores()).items()}
    begins = {path: 0.0 if first[path].video else first[path].recording.begin for path in stops}
    return {path: room(rows[path], begins[path], stops[path], margin, seconds) for path in first if path in stops}


def room(rows: Iterable[Segment], begin: float, end: float, margin: float, seconds: float) -> Room:
    """Return the room in a recording from `begin` to `end`, beside segments for training.

    A part without segments is cut into as many equal pieces as it has room for clips; each piece has one in its middle.
    """
    starts, covered = list[float](), 0.0
    last, before = begin, "train"  # the end of what was covered so far, and its split
    for start, stop, split in [*sorted((one.start, one.stop, one.split) for one in rows), (end, end, "train")]:
        free = min(start, end) - last - 2 * margin
        pieces = int(free / seconds + ROUNDING)
        if before == split == "train":
            middles = (last + margin + (piece + 0.5) * free / pieces for piece in range(pieces))
            starts += [middle - seconds / 2 for middle in middles]
        covered += max(0.0, min(stop, end) - max(start, last))
        if stop > last:
            last, before = stop, split
    return Room(end - begin, covered, starts)


def _slots(rooms: Mapping[str, Room]) -> list[tuple[float, str, float, str]]:
    """Return (order, name, start, path) of each clip: the first N have the same share of the room of each recording.

    Which clips of a recording come first is drawn by a hash, which depends on its name and the clip alone.
    """
    found = []
    for path, name in shortest_unique_suffixes(rooms).items():
        keys = {start: hashlib.sha256(os.fsencode(f"{name} {start:.3f}")).digest() for start in rooms[path].starts}
        found += [((k + 0.5) / len(keys), name, start, path) for k, start in enumerate(sorted(keys, key=keys.get))]
    return sorted(found)


def require_dense(rooms: Mapping[str, Room], origin: Origin) -> None:
    """Raise DataError if what has no label may be an action."""
    bare = {path: room for path, room in rooms.items() if origin.is_sparse or room.covered < SPARSE * room.length}
    if not bare:
        return
    path, room = next(iter(bare.items()))
    found = f"{path}: segments cover {room.covered:,.1f} of {room.length:,.1f} s"
    if len(bare) > 1:
        sums = (sum(one[k] for one in bare.values()) for k in (1, 0))
        found += " ({:,.1f} of {:,.1f} s in {} such recordings)".format(*sums, len(bare))
    why = "its data set does not label all that happens" if origin.is_sparse else "that is less than a tenth"
    raise DataError(
        f"{found}; {why}, so the rest may be actions without a label, and no background. Label all that happens, leave "
        f"these recordings out, or give {named('sparse', True)} if nothing happens in the rest"
    )


def _note(added: Mapping[str, Sequence[Segment]], rooms: Mapping[str, Room], seconds: float) -> str:
    """Return how much of which recordings was taken."""
    short = shortest_unique_suffixes(added)
    parts = [
        f"{seconds * len(own):,.1f} s of {short[path]}"
        for path, own in sorted(added.items(), key=lambda one: len(one[1]))
    ]
    count = sum(map(len, added.values()))
    free = sum(room.length - room.covered for room in rooms.values())
    return (
        f"background: {pluralize(count, 'clip')} of the class {NONE!r} from "
        f"{pluralize(len(added), 'training recording')}, "
        f"{seconds * count:,.1f} of {free:,.1f} s without a segment ({100 * seconds * count / free:.0f} %): "
        + (f"{parts[0]} to {parts[-1]}" if len(parts) > 3 else ", ".join(parts))
    )
