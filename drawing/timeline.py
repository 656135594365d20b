"""What a model says about a recording, over time.

from egodistill.drawing import timeline

timeline.draw_timeline(list(predict(student, "walk.mp4")), [], "walk.png", "walk.mp4")
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

import numpy as np

from . import canvas

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["FRAMES", "FRAME_PIXELS", "draw_timeline", "ends_of", "lanes_of"]

FRAMES, FRAME_PIXELS = 8, 118  # what fits beside each other
LANES = 12  # classes that have a lane; the others share one
COLUMNS = 400  # at most: two pixels each


class Answer(Protocol):
    """A clip of a recording: an `inference.Prediction`."""

    start: float
    stop: float
    classes: list[tuple[str, float]]


def draw_timeline(
    clips: Sequence[Answer],
    frames: Sequence[tuple[float, np.ndarray]],
    path: str | os.PathLike,
    subject: str,
    title: str = "egodistill",
) -> None:
    """Draw a lane for each class, with the clips of which it is the best class. Raise ImportError without matplotlib.

    The darker, the more probable. In a long recording, a column stands for several clips: the darker, the more of the
    column's time and the more probable.

    Args:
        clips: The clips in the order of time, of which only the best class counts; those without one are skipped.
        frames: (time in seconds, uint8 [H, W, 3]) of frames to draw above; at most `FRAMES` of `FRAME_PIXELS` pixels.
        path: The .png to write.
        subject: What was recorded, for the heading.
        title: The title in the file's metadata.

    >>> from egodistill import Prediction
    >>> from egodistill.drawing import timeline
    >>> clips = [Prediction(0.0, 2.1, [("open", 0.9)]), Prediction(2.1, 4.2, [("close", 0.7)])]
    >>> timeline.draw_timeline(clips, [], "walk.png", "walk.mp4")
    """
    names, lanes, shares = lanes_of(clips)
    starts, ends = np.asarray([clip.start for clip in clips]), ends_of(clips)
    first, last = starts[0], ends[-1]
    several = len(clips) > COLUMNS
    if several:
        starts, ends, lanes, shares = columns_of(starts, ends, lanes, shares, len(names))
    unit, size = ("min", 60) if last - first > 300 else ("s", 1)
    height = 0.34 * len(names)
    with canvas.picture(path, (12, 1.2 + height + 1.3 * bool(frames)), title) as figure:
        heights = [FRAME_PIXELS / 120, height] if frames else [height]
        panels = figure.subplots(len(heights), 1, sharex=True, squeeze=False, height_ratios=heights)[:, 0]
        if frames:
            draw_frames(panels[0], frames, size)
        draw_lanes(panels[-1], starts / size, (ends - starts) / size, lanes, shares, names)
        note = f"a column is {ends[0] - starts[0]:.0f} s; darker: for longer, and more probable" if several else DARKER
        panels[-1].set(xlabel=f"time in the recording ({unit})", xlim=(first / size, last / size))
        canvas.heading(figure, f"{subject}: the best class of {len(clips):,} clips ({note})")


DARKER = "darker: more probable"


def ends_of(clips: Sequence[Answer]) -> np.ndarray:
    """Return the ends of clips in seconds, float64 [n]; a clip ends where the next one begins."""
    return np.minimum([clip.stop for clip in clips], [*(clip.start for clip in clips[1:]), np.inf])


def lanes_of(clips: Sequence[Answer]) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Return the names of the lanes, the lane of each clip, and its probability.

    The most frequent classes have a lane, in the order in which they occur first; then come the others, and what could
    not be classified.
    """
    best = [clip.classes[0] if clip.classes else (None, 1.0) for clip in clips]
    counts = Counter(name for name, _ in best if name is not None)
    most = {name for name, _ in counts.most_common(LANES if len(counts) > LANES + 1 else LANES + 1)}
    kept = [name for name in dict.fromkeys(name for name, _ in best) if name in most]
    names = [canvas.name(name) for name in kept]
    others = f"{len(counts) - len(kept)} other classes"
    names += [others] * (len(counts) > len(kept)) + [SKIPPED] * any(name is None for name, _ in best)
    place = {name: number for number, name in enumerate(kept)} | {None: len(names) - 1}
    lanes = [place.get(name, len(kept)) for name, _ in best]
    return names, np.asarray(lanes), np.asarray([share for _, share in best])


SKIPPED = "skipped"


def columns_of(
    starts: np.ndarray, ends: np.ndarray, lanes: np.ndarray, shares: np.ndarray, count: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return the same for `COLUMNS` parts of the recording: a clip counts in the part that has its middle."""
    edges = np.linspace(starts[0], ends[-1], COLUMNS + 1)
    bins = (np.arange(count + 1) - 0.5, edges)
    found, *_ = np.histogram2d(lanes, (starts + ends) / 2, bins=bins, weights=shares * (ends - starts))
    lane, column = np.nonzero(found)
    share = np.minimum(found[lane, column] / (edges[1] - edges[0]), 1.0)
    return edges[column], edges[column + 1], lane, share


def draw_frames(axes: Axes, frames: Sequence[tuple[float, np.ndarray]], size: float) -> None:
    """Draw frames above their times, in their own size."""
    from matplotlib.offsetbox import AnnotationBbox, OffsetImage

    axes.axis("off")
    for time, frame in frames:
        image = OffsetImage(frame, zoom=72 / 120)
        axes.add_artist(AnnotationBbox(image, (time / size, 0.5), frameon=False, box_alignment=(0.5, 0.5), pad=0))


def draw_lanes(
    axes: Axes, starts: np.ndarray, widths: np.ndarray, lanes: np.ndarray, shares: np.ndarray, names: Sequence[str]
) -> None:
    """Draw a bar for each clip in its lane; the first lane is the upper one."""
    from matplotlib.colors import to_rgb

    for number, name in enumerate(names):
        mine = lanes == number
        color = np.asarray(to_rgb(canvas.GREY if name == SKIPPED else canvas.COLOURS[number % len(canvas.COLOURS)]))
        strength = 0.15 + 0.85 * shares[mine, None]
        bars = np.stack([starts[mine], widths[mine]], 1)
        axes.broken_barh(bars, (number - 0.4, 0.8), facecolors=1 - strength * (1 - color), antialiased=False)
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.grid(axis="x")
    axes.tick_params(axis="y", length=0)
