"""Metrics of temporal action segmentation: what the events of whole labelled recordings are worth.

    from egodistill.deploy import events, segmentation

    found = events.events(predict(model, "walk.mp4", stride=0.5))
    score = segmentation.score_events(found, segments, (0.0, 60.0))   # of the recording, and what of it is labelled
    score += segmentation.score_events(...)                           # of the next recording: what is counted adds up
    print(score.numbers())

    chosen = segmentation.best_thresholds([segmentation.Answered(answers, segments, (0.0, 60.0)), ...], stride=0.5)

What no segment covers is background, and so is a segment with the label "(none)", which counts nowhere else. Events
and segments are anything with `start` and `stop` in seconds and a `label`. Frame-wise accuracy, edit score and F1 at an
overlap are those of Lea et al., "Temporal Convolutional Networks for Action Segmentation and Detection" (CVPR 2017), at
the overlaps of Farha and Gall, "MS-TCN" (CVPR 2019); but times are compared exactly, not frame by frame.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import numpy as np

from ..support.errors import EgoDistillError
from .events import NO_EVENTS, ScoredClip, Tracker, events

__all__ = ["METRICS", "TOP", "Answered", "Score", "best_thresholds", "score_events"]

OVERLAPS = (10, 25, 50)  # % of intersection over union, from which on an event matches
# {metric of `Score.numbers()`: what it is}
METRICS = {
    "time_right": "time right (%)",
    **{f"f1_{overlap}": f"F1@{overlap} (%)" for overlap in OVERLAPS},
    "edit": "edit score (%)",
    "unmatched_per_hour": "unmatched events per hour",
    "background_under_events": "background under an event (%)",
}
# Thresholds that are tried: start, end as a share of it, and the shortest event in seconds.
STARTS, ENDS, SHORTEST = tuple(k / 10 for k in range(1, 10)), (0.5, 2 / 3, 1.0), (0.0, 0.5, 1.0, 1.5)
TOP = Tracker(STARTS[0], STARTS[0] * ENDS[0]).top  # classes that answers must have


class Labelled(Protocol):
    """An `events.Event`, a `data.Segment`, or another part of a recording with a label."""

    @property
    def start(self) -> float: ...
    @property
    def stop(self) -> float: ...
    @property
    def label(self) -> str | None: ...


@dataclass(frozen=True)
class Score:
    """What events are worth, on one recording or several: `one + other` is that of the recordings of both.

    Attributes:
        counts: What is counted: "recordings", "seconds" and so on, and of each class ("events", label) and so on.
    """

    counts: Counter[Any] = field(default_factory=Counter)

    def __add__(self, other: Score) -> Score:
        return Score(self.counts + other.counts)

    @property
    def classes(self) -> list[str]:
        """Return the classes that segments or events have, in the order of their names."""
        return sorted({key[1] for key in self.counts if key[0] in ("segments", "events")})

    def f1(self, overlap: int = 50, label: str | None = None) -> float | None:
        """Return F1 in %, of all classes together or of one; None without segments and events."""
        hits, found, wanted = (self.count(what, label) for what in (f"hits {overlap}", "events", "segments"))
        return percent(2 * hits, found + wanted)

    def count(self, what: str, label: str | None = None) -> float:
        """Return what is counted of a class, or of all."""
        return sum(self.counts[what, one] for one in ([label] if label is not None else self.classes))

    def numbers(self) -> dict[str, float | None]:
        """Return the metrics in `METRICS`; None where there is nothing to measure.

        The edit score is the mean over the recordings. An event is unmatched if it does not match at an overlap of
        50 %.
        """
        counts, unmatched = self.counts, self.count("events") - self.count("hits 50")
        return {
            "time_right": percent(counts["right"], counts["seconds"]),
            **{f"f1_{overlap}": self.f1(overlap) for overlap in OVERLAPS},
            "edit": percent(counts["edit"], counts["recordings"]),
            "unmatched_per_hour": 3600 * unmatched / counts["seconds"] if counts["seconds"] else None,
            "background_under_events": percent(counts["under"], counts["background"]),
        }

    def by_class(self) -> dict[str, dict[str, float | None]]:
        """Return {class: number of segments and events, F1@50, and the share of its time with an event of it}."""
        return {
            label: {
                "segments": self.counts["segments", label],
                "events": self.counts["events", label],
                "f1_50": self.f1(50, label),
                "time_right": percent(self.counts["right", label], self.counts["seconds", label]),
            }
            for label in self.classes
        }


def percent(part: float, whole: float) -> float | None:
    return 100 * part / whole if whole else None


def score_events(found: Iterable[Labelled], segments: Iterable[Labelled], span: tuple[float, float]) -> Score:
    """Return what the events of a recording are worth beside its segments, from `span[0]` to `span[1]` seconds.

    Events outside of this time do not count. Where segments overlap, an event with the label of one of them is right.
    Raise EgoDistillError for a span without length.
    """
    begin, end = span
    if not begin < end:
        raise EgoDistillError(f"span={span!r} must be two times in seconds, the earlier one first")
    found, segments = within(found, span), within(segments, span)
    counts = Counter[Any](recordings=1, seconds=end - begin, edit=edit_score(found, segments))
    for name, some in (("events", found), ("segments", segments)):
        counts.update((name, one.label) for one in some)
    for overlap in OVERLAPS:
        counts.update((f"hits {overlap}", label) for label in matched(found, segments, overlap / 100))
    times = {begin, end, *(time for one in (*found, *segments) for time in (one.start, one.stop))}
    for start, stop in itertools.pairwise(sorted(time for time in times if begin <= time <= end)):
        said, true = ({one.label for one in some if one.start <= start < one.stop} for some in (found, segments))
        seconds = stop - start
        if true:
            counts.update({("seconds", label): seconds for label in true})
            counts.update({("right", label): seconds for label in true & said})
        else:
            counts.update(background=seconds, under=seconds if said else 0.0)
        counts["right"] += seconds if true & said or not (true or said) else 0.0
    return Score(counts)


def within(some: Iterable[Labelled], span: tuple[float, float]) -> list[Any]:
    """Return what has a label and lies in a span at least in part, in order of time."""
    kept = (one for one in some if one.label not in (None, *NO_EVENTS) and one.start < span[1] and span[0] < one.stop)
    return sorted(kept, key=lambda one: (one.start, one.stop))


def matched(found: Sequence[Labelled], segments: Sequence[Labelled], overlap: float) -> list[str]:
    """Return the labels of the events that match a segment.

    Each, in order of time, matches the segment of its label with the largest intersection over union among those that
    no earlier event has matched, if that is at least `overlap`.
    """
    labels, left = [], dict[str | None, list[Labelled]]()
    for one in segments:
        left.setdefault(one.label, []).append(one)
    for event in found:
        others = left.get(event.label, [])
        shares = [common(event, one) for one in others]
        if shares and max(shares) >= overlap - 1e-9:  # times are decimal numbers
            del others[shares.index(max(shares))]
            labels.append(event.label)
    return labels


def common(one: Labelled, other: Labelled) -> float:
    """Return the intersection of two times over their union, 0 to 1."""
    shared = min(one.stop, other.stop) - max(one.start, other.start)
    return max(0.0, shared / (max(one.stop, other.stop) - min(one.start, other.start)))


def edit_score(found: Sequence[Labelled], segments: Sequence[Labelled]) -> float:
    """Return 1 minus Levenshtein's distance between the orders of labels, as a share of the longer one; 1 for none."""
    said, true = [one.label for one in found], [one.label for one in segments]
    steps = np.arange(len(true) + 1)
    costs = steps
    for label in said:
        change = costs[:-1] + [label != one for one in true]
        costs = np.minimum(costs + 1, np.concatenate([[costs[0] + 1], change]))
        costs = np.minimum.accumulate(costs - steps) + steps  # what is inserted
    return 1 - int(costs[-1]) / max(len(said), len(true), 1)


class Answered(NamedTuple):
    """The answers on a labelled recording.

    Attributes:
        answers: Answers of `predict()` or of a `Stream`, with at least `TOP` classes each, or all.
        segments: Its labelled segments.
        span: Start and end of its labelled part, in seconds.
    """

    answers: Sequence[ScoredClip]
    segments: Sequence[Labelled]
    span: tuple[float, float]


def best_thresholds(recordings: Sequence[Answered], stride: float) -> dict[str, float] | None:
    """Return the thresholds of `events.Tracker` with the highest F1@50, and the `stride` of the answers.

    Of equal ones, those with the highest start, then the highest end, then the longest events. On recordings that a
    model learned from it is too sure, and those that it is tested on are not for choosing. None: no event matches a
    segment, whatever the thresholds.
    """
    best, highest = dict[str, float](), 0.0
    for start, share, shortest in itertools.product(STARTS, ENDS, SHORTEST):
        thresholds = {"start": start, "end": start * share, "min_seconds": shortest, "max_pause": Tracker.max_pause}
        hits = total = 0
        for one in recordings:
            found = within(events(one.answers, **thresholds), one.span)
            segments = within(one.segments, one.span)
            hits, total = hits + len(matched(found, segments, 0.5)), total + len(found) + len(segments)
        if hits and 2 * hits / total >= highest:  # the later one of equal ones: what is tried becomes stricter
            best, highest = thresholds, 2 * hits / total
    return {**best, "stride": float(stride)} if best else None
