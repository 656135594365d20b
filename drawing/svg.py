"""Pictures inside a page: SVG as wide as the page, whose text keeps its size, and which reads without colour.

    picture = svg.lanes([("wash", [(0.0, 2.1, 0.9)]), ("cut", [(2.1, 4.2, 0.7)])], (0.0, 4.2))

Places along the width are in percent, and a path lies in a picture of its own that is stretched.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..support import files
from ..support.pages import Markup, tag
from . import canvas

__all__ = ["axis", "bars", "curves", "envelope", "lanes", "words"]

COLUMNS, ROW = 2000, 36  # of an envelope, at most; pixels of a lane or bar with its name
STEPS = (0.5, 1, 2, 5, 10, 30, 60, 120, 300, 600, 1200, 1800, 3600, 7200, 21600, 86400)  # seconds between two ticks
DASHES = (None, "7 4", "2 3", "10 3 2 3")  # by which lines differ, too


def picture(height: float, about: str, parts: Sequence[Markup]) -> Markup:
    return tag("svg", *parts, width="100%", height=height, role="img", aria_label=about)


def stretched(path: str, size: tuple[float, float], top: float, height: float, **look: Any) -> Markup:
    """Return a path in its own coordinates, from 0 to `size`, over the whole width of a picture."""
    line = tag("path", d=path, vector_effect="non-scaling-stroke", **look)
    place = {"viewBox": f"0 0 {size[0]:.8g} {size[1]:.8g}", "preserveAspectRatio": "none"}
    return tag("svg", line, y=top, width="100%", height=height, **place)


def label(text: str, top: float, left: str = "5") -> Markup:
    return tag("text", text, x=left, y=top + 13, text_anchor="end" if left == "100%" else None)


def colour(number: int) -> str:
    return canvas.COLOURS[number % len(canvas.COLOURS)]


def lanes(rows: Sequence[tuple[str, Sequence[tuple[float, float, float]]]], span: tuple[float, float]) -> Markup:
    """Return a lane for each (name, bars) over a span of seconds; a bar is (start, stop, height from 0 to 1)."""
    parts = []
    for number, (name, found) in enumerate(rows):
        top, look = ROW * number, {"fill": colour(number), "stroke": colour(number)}
        path = "".join(f"M{a - span[0]:.7g} 1v{-height:.2g}h{b - a:.4g}V1z" for a, b, height in found)
        parts += [label(name, top), tag("rect", y=top + 17, width="100%", height=15, fill="#f1f1f1")]
        parts.append(stretched(path, (span[1] - span[0], 1), top + 17, 15, **look))
    return picture(ROW * len(rows), f"time line of {', '.join(name for name, _ in rows)}", parts)


def words(rows: Sequence[tuple[float, float, str]], span: tuple[float, float], name: str) -> Markup:
    """Return one lane of (start, stop, text) over a span of seconds; a text is cut where the next one begins."""
    parts, length = [label(name, 0), tag("rect", y=17, width="100%", height=19, fill="#f1f1f1")], span[1] - span[0]
    for start, stop, text in rows:
        start, stop = max(start, span[0]), min(stop, span[1])
        if start < stop:
            place = {"x": f"{100 * (start - span[0]) / length:.3f}%", "width": f"{100 * (stop - start) / length:.3f}%"}
            box = tag("rect", width="100%", height=19, fill="#fff", stroke=canvas.GREY)
            inside = tag("svg", box, tag("text", text, x=4, y=14), tag("title", text), y=17, height=19, **place)
            parts.append(inside)
    return picture(ROW, f"{name}: {', '.join(text for _, _, text in rows)}", parts)


def envelope(times: np.ndarray, values: np.ndarray, span: tuple[float, float], name: str, unit: str) -> Markup:
    """Return the smallest and largest value of a signal in each of at most 2,000 parts of a span of seconds.

    `times` are seconds [n], and `values` are at least 0, in `unit` [n].
    """
    inside = (times >= span[0]) & (times < span[1])
    times, values = times[inside], values[inside]
    count = max(1, min(COLUMNS, len(times) // 2))
    columns = ((times - span[0]) / (span[1] - span[0]) * count).astype(int)
    low, high = np.full(count, np.inf), np.zeros(count)
    np.minimum.at(low, columns, values)
    np.maximum.at(high, columns, values)
    top, path, known = high.max() or 1.0, "", np.flatnonzero(np.isfinite(low))
    for run in np.split(known, 1 + np.flatnonzero(np.diff(known) > 1)) if len(known) else []:  # between holes
        edge = [*zip(run, high[run], strict=True), *zip(run[::-1], low[run[::-1]], strict=True)]
        path += "M" + "L".join(f"{x} {1000 - 1000 * y / top:.0f}" for x, y in edge) + "z"
    words = f"at most {high.max():.3g} {unit}"
    area = stretched(path, (count, 1000), 18, 48, fill=canvas.GREY, stroke=canvas.GREY)
    return picture(66, f"{name}, {words}", [label(name, 0), label(words, 0, "100%"), area])


def axis(span: tuple[float, float]) -> Markup:
    """Return the times below pictures that begin and end at these seconds."""
    length, parts = span[1] - span[0], []
    step = next((step for step in STEPS if length / step <= 6), length)
    for time in np.arange(np.ceil(span[0] / step) * step, span[1] + step / 100, step):
        place = 100 * (time - span[0]) / length
        look = {"x": f"{place:.2f}%", "text_anchor": "start" if place < 4 else "end" if place > 96 else "middle"}
        parts.append(tag("text", f"{time:g} s" if step < 1 else files.clock(time), y=15, **look))
    return picture(20, "time in the recording", parts)


def bars(rows: Sequence[tuple[str, float, str]], about: str, largest: float | None = None) -> Markup:
    """Return a bar for each (name, value, text of the value).

    `largest` is the value of a bar as wide as the page; None: the largest of them, and each has a colour of its own.
    """
    parts, scale = [], largest or max((value for _, value, _ in rows), default=0) or 1
    for number, (name, value, text) in enumerate(rows):
        look = {"width": f"{100 * value / scale:.1f}%", "height": 10, "fill": colour(0 if largest else number)}
        parts += [label(name, ROW * number), label(text, ROW * number, "100%")]
        parts.append(tag("rect", y=ROW * number + 18, **look))
    return picture(ROW * len(rows), about, parts)


def curves(
    lines: Mapping[str, Sequence[tuple[float, float]]],
    about: str,
    x_label: str,
    mark: float | None = None,
    last: str = "at last",
) -> Markup:
    """Return a line for each {name: finite points (x, y), at least one}, and below them their last values.

    `mark` is the x of a vertical line, `last` the words before the last values.
    """
    points, height = np.concatenate([np.asarray(line, float) for line in lines.values()]), 160
    (left, low), (right, high) = points.min(0), points.max(0)
    parts = [label(f"{high:.4g}", 0), label(f"{low:.4g}", height + 18)]
    parts.append(label(f"{x_label} {left:g} to {right:g}", height + 18, "100%"))
    if mark is not None:
        place = f"{99.5 * (mark - left) / (right - left or 1):.2f}%"  # at most 100 with its width
        parts.append(tag("rect", x=place, y=18, width=1, height=height, fill=canvas.GREY))
    for number, (name, line) in enumerate(lines.items()):
        look = {"stroke": colour(number), "stroke_width": 2, "stroke_dasharray": DASHES[number % len(DASHES)]}
        path = "M" + "L".join(f"{x - left:.5g} {high - y:.5g}" for x, y in line)
        parts.append(stretched(path, (right - left or 1, high - low or 1), 18, height, fill="none", **look))
        below = height + 40 + 22 * number
        parts.append(tag("line", x2=44, y1=below + 9, y2=below + 9, **look))
        parts.append(label(f"{name}: {last} {line[-1][1]:.4g}", below, "54"))
    return picture(height + 40 + 22 * len(lines), about, parts)
