"""Events from answers: labels that do not flicker.

    from egodistill import events

    for event in events.events(predict(model, "walk.mp4", stride=0.5)):
        print(f"{event.start:.1f} to {event.stop:.1f} s: {event.label}")

    tracker = events.Tracker(start=0.6, end=0.4)           # live: the same rule, one answer at a time
    for answer in stream.results():
        for event in tracker.add(answer):
            print(event)

With an answer every half second, the best class often changes for a single answer. An event begins when the
probability of a class reaches `start`, and lasts until it falls below the lower `end`; events that are too short are
left out, and parts of one label with a short pause between them are joined. The classes "(none)" and "unsure" end
events as every other does, and are none themselves. Thresholds with hysteresis and minimum durations are those of voice
activity detectors such as silero-vad.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple, Protocol

from ..support.defaults import NONE, UNSURE
from ..support.errors import EgoDistillError

__all__ = ["EVERY", "NO_EVENTS", "Event", "Tracker", "choose_tracker", "events"]

NO_EVENTS = (NONE, UNSURE)  # classes of which there are no events
EVERY = 0.5  # seconds from answer to answer that events need: with 2.1 s even true labels lose half of the acts
ROUNDING = 1e-6  # seconds: an event that lasts from one answer to the next is not shorter than that


class ScoredClip(Protocol):
    """An `inference.Prediction` or a `stream.Answer`."""

    start: float
    stop: float
    classes: list[tuple[str, float]]


class Event(NamedTuple):
    """A label that held for a time, on the clock of the answers.

    Attributes:
        start: Start in seconds, or nanoseconds if the times of the answers are integers.
        stop: End, in the same unit.
        label: Name of the class.
        score: Highest probability of the class in this time.
    """

    start: float
    stop: float
    label: str
    score: float


@dataclasses.dataclass
class Part:
    """A span of time in which one label holds, before short ones are left out."""

    label: str
    start: float
    stop: float
    score: float


@dataclasses.dataclass
class Tracker:
    """Finder of events one answer at a time: `add()` returns the events that have ended, `finish()` the last ones.

    An answer describes the middle of its clip, so an event begins and ends halfway between two such middles. Answers
    without classes (`problem`) change nothing, but an event ends before a hole: clips that are more than `max_pause`
    apart. Times are seconds, or nanoseconds if they are integers.

    Attributes:
        start: An event begins when the probability of the best class reaches this, 0 to 1.
        end: An event ends when its probability falls below this, or when another class is the best and reaches `start`.
        min_seconds: Shorter events are left out.
        max_pause: Events of one label are joined if at most this many seconds, and no other event, are between them.

    Raises:
        EgoDistillError: For thresholds that do not fit, and for answers that are not in order of time.

    >>> from egodistill import events
    >>> from egodistill.inference import Prediction
    >>> scores = [0.1, 0.7, 0.9, 0.5, 0.8, 0.1, 0.1, 0.1, 0.9, 0.1]
    >>> answers = [Prediction(0.5 * k, 0.5 * k + 2, [("wash", score)]) for k, score in enumerate(scores)]
    >>> list(events.events(answers, start=0.6, end=0.4, min_seconds=1))
    [Event(start=1.25, stop=3.25, label='wash', score=0.9)]
    """

    start: float = 0.6
    end: float = 0.4
    min_seconds: float = 1.0
    max_pause: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.end <= self.start <= 1:
            raise EgoDistillError(
                f"thresholds must have 0 <= end <= start <= 1; got end={self.end!r}, start={self.start!r}"
            )
        if not (self.min_seconds >= 0 and self.max_pause >= 0):
            raise EgoDistillError(
                f"min_seconds and max_pause must be at least 0; got {self.min_seconds!r} and {self.max_pause!r}"
            )
        self.reset()

    def __str__(self) -> str:
        begins = f"begins at a probability of {self.start:.3g}, ends below {self.end:.3g}"
        return f"{begins} and lasts at least {self.min_seconds:g} s"

    @property
    def top(self) -> int:
        """Return how many of its best classes an answer must have: so many can have a probability of `end`."""
        return math.floor(1 / max(self.end, 0.001))

    def reset(self) -> None:
        """Forget all answers."""
        self._holds: Part | None = None
        self._ended: dict[str, Part] = {}  # the last part of each label, in order of time, which a next one may extend
        self._last: ScoredClip | None = None  # the last answer with classes

    def add(self, answer: ScoredClip) -> list[Event]:
        """Take the next answer, and return the events that have ended, in order of time.

        Args:
            answer: An `inference.Prediction` or a `stream.Answer`.
        """
        if not hasattr(answer, "classes"):
            raise EgoDistillError(f"an answer is one of predict() or a Stream; got {type(answer).__name__}")
        last, moment = self._last, middle(answer)
        if last is not None and moment <= middle(last):
            raise EgoDistillError(
                f"answers must be in order of time; the clip from {answer.start} follows the one from {last.start}"
            )
        if not answer.classes:
            return []
        hole = last is not None and seconds(last.stop, answer.start) > self.max_pause
        border = moment if last is None or hole else halfway(middle(last), moment)
        scores = dict(answer.classes)
        best = max(scores, key=scores.__getitem__)
        begins, found = scores[best] >= self.start, []
        if (now := self._holds) is not None:
            own = scores.get(now.label, 0.0)
            if hole or own < self.end or (begins and best != now.label):
                found += self._end(middle(last) if hole else border)
            else:
                now.stop, now.score = moment, max(now.score, own)
        if self._holds is None:
            found += self._release(border)
            if begins and best not in NO_EVENTS:
                self._holds = Part(best, border, moment, scores[best])
        self._last = answer
        return found

    def finish(self) -> list[Event]:
        """Return the events that the end of the answers completes, and forget all answers."""
        found = self._end(middle(self._last)) if self._holds else []
        found += self._release()
        self.reset()
        return found

    def _end(self, moment: float) -> list[Event]:
        """End the part that holds, joined to an earlier one of its label; return the events that it completes."""
        now, self._holds = self._holds, None
        now.stop = moment
        found = self._release(now.start)
        if before := self._ended.pop(now.label, None):
            now.start, now.score = before.start, max(before.score, now.score)
            self._ended = {label: part for label, part in self._ended.items() if part.stop <= now.start}
        if self._events(now):  # an event separates parts of other labels; a part too short for one does not
            found += self._release()
        self._ended[now.label] = now
        return found

    def _release(self, moment: float | None = None) -> list[Event]:
        """Forget all ended parts, or those that no part from `moment` on can extend; return the events among them."""
        old = [part for part in self._ended.values() if moment is None or seconds(part.stop, moment) > self.max_pause]
        for part in old:
            del self._ended[part.label]
        return [event for part in old for event in self._events(part)]

    def _events(self, part: Part) -> list[Event]:
        long_enough = seconds(part.start, part.stop) >= self.min_seconds - ROUNDING
        return [Event(part.start, part.stop, part.label, part.score)] if long_enough else []


def middle(answer: ScoredClip) -> float:
    """Return the middle of an answer's clip."""
    return halfway(answer.start, answer.stop)


def halfway(one: float, other: float) -> float:
    return one + ((other - one) // 2 if isinstance(one, int) and isinstance(other, int) else (other - one) / 2)


def seconds(start: float, stop: float) -> float:
    """Return the seconds from one time to another; integers are nanoseconds."""
    return (stop - start) * (1e-9 if isinstance(start, int) and isinstance(stop, int) else 1.0)


def events(
    answers: Iterable[ScoredClip],
    *,
    start: float = Tracker.start,
    end: float = Tracker.end,
    min_seconds: float = Tracker.min_seconds,
    max_pause: float = Tracker.max_pause,
) -> Iterator[Event]:
    """Yield the events of answers, each as soon as it has ended; see `Tracker`.

    Args:
        answers: Answers of `predict()` or of a `Stream`, in order of time.
        start: Probability at which an event begins.
        end: Probability below which it ends.
        min_seconds: Shorter events are left out.
        max_pause: Seconds: the longest pause between events of one label that are joined.
    """
    tracker = Tracker(start, end, min_seconds, max_pause)
    for answer in answers:
        yield from tracker.add(answer)
    yield from tracker.finish()


def choose_tracker(
    own: Mapping[str, float] | None, every: float | None = None, start: float | None = None
) -> tuple[Tracker, float, str]:
    """Return what finds the events of a model's answers, their distance in seconds, and whose thresholds it has.

    Args:
        own: The model's thresholds, `calibration.events`, which hold for answers at their stride; None: the defaults.
        every: Seconds from answer to answer; None: the model's stride, or 0.5.
        start: Probability at which an event begins, instead of these thresholds; it ends below two thirds of it.
    """
    if every is None:
        every = own["stride"] if own else EVERY
    if start is not None:
        return Tracker(start=start, end=start * 2 / 3), every, "as given"
    if own and math.isclose(own["stride"], every, abs_tol=ROUNDING):
        return Tracker(**{name: value for name, value in own.items() if name != "stride"}), every, "as saved with it"
    told = f", since those of its file hold for an answer every {own['stride']:g} s, not {every:g} s" if own else ""
    return Tracker(), every, f"by default{told}"
