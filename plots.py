"""The paper's Figure 3, and the picture of a recording's sensors, drawn with matplotlib.

    from egodistill import plots

    plots.draw(rows, "out/compare")                            # rows of `experiments.rows()`
    plots.draw_check(recordings.check("walk.mp4"), "check.png")

matplotlib is part of the extra `tutorials`; it is imported when a figure is drawn.
"""

from __future__ import annotations

import importlib.util
import os
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from egodistill import DataError, files

if TYPE_CHECKING:  # experiments needs torch, and `egodistill check` does not
    from matplotlib.figure import Figure

    from egodistill.experiments import Row
    from egodistill.recordings import Check

__all__ = ["CHECK_TITLE", "draw", "draw_check", "require_picture", "save"]

CHECK_TITLE = "egodistill check"  # in the files of `draw_check()`: distinguishes earlier results from other pictures

LIMIT = "what its inputs tell"  # in the legend of `draw()`
# Colours of Okabe and Ito; markers, lines and grey values also distinguish the methods in a grey print.
STYLES: dict[str, dict[str, Any]] = {
    "EgoDistill": {"color": "#D55E00", "marker": "o", "linewidth": 2.4, "markersize": 8},
    "VisIMU": {"color": "#E69F00", "marker": "s", "linestyle": "--"},
    "VisOnly-Distill": {"color": "#0072B2", "marker": "^"},
    "VisOnly": {"color": "#56B4E9", "marker": "v", "linestyle": "--"},
    "ListenToLook": {"color": "#009E73", "marker": "D", "linestyle": "-."},
    "AdaFuse": {"color": "#000000", "marker": "P", "linestyle": "none", "markersize": 9},
    "STTS": {"color": "#CC79A7", "marker": "X", "linestyle": ":", "markersize": 9},
    "teacher": {"color": "#555555", "marker": "*", "linestyle": "none", "markersize": 13},
}


def draw(
    rows: Sequence[Row],
    stem: str | os.PathLike,
    title: str = "",
    ceilings: Mapping[tuple[str, int], float] | None = None,
) -> list[Path]:
    """Draw accuracy against GMACs, the paper's Figure 3; write and return ``stem``.png and ``stem``.svg.

    Error bars are the 95 % intervals of the rows, or their standard deviations if they have none. ``ceilings``,
    {(method, frames): accuracy in %}, are the best possible accuracies from a method's inputs, drawn as short lines.
    Raise ImportError if matplotlib is not installed.

    >>> from egodistill import experiments, plots
    >>> row = experiments.Row("EgoDistill", 1, "1 frame + IMU", 76.2, 1.1, [], 0.057, None, None, {}, None)
    >>> [file.name for file in plots.draw([row], "figure3")]
    ['figure3.png', 'figure3.svg']
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.patheffects import withStroke
    from matplotlib.ticker import LogLocator

    ceilings, known = ceilings or {}, [one for one in rows if one.gmacs]
    figure = Figure(figsize=(8, 5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot(xscale="log", xlabel="GMACs per clip (billions of multiply-adds)", ylabel="top-1 (%)")
    if len({one.gmacs for one in known}) == 1:
        axes.set_xlim(known[0].gmacs / 2, 2 * known[0].gmacs)
    for method, style in STYLES.items():
        line = sorted((one for one in known if one.method.split()[0] == method), key=lambda one: one.gmacs)
        if not line:
            continue
        x, y = [one.gmacs for one in line], [one.top1 for one in line]
        axes.errorbar(x, y, yerr=error_bars(line), capsize=3, label=method, **style)
        if method in ("EgoDistill", "VisOnly-Distill"):
            for number, one in enumerate(line):  # Beside the line, not on it.
                right, up, side = (9, 0, "left") if number and one is line[-1] else (-9, 9 if number else 0, "right")
                axes.annotate(
                    f"N = {one.frames}",
                    (one.gmacs, one.top1),
                    xytext=(right, up),
                    textcoords="offset points",
                    ha=side,
                    va="center",
                    fontsize=9,
                    color=style["color"],
                    path_effects=[withStroke(linewidth=2.5, foreground="white")],
                )
    style = {"marker": "_", "markersize": 26, "markeredgewidth": 2, "linestyle": "none", "alpha": 0.6}
    if limits := [one for one in known if (one.method, one.frames) in ceilings]:
        axes.plot([], [], color="#777777", label=LIMIT, **style)
    for one in limits:
        axes.plot(one.gmacs, ceilings[one.method, one.frames], color=STYLES[one.method.split()[0]]["color"], **style)
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_minor_formatter("")
    axes.xaxis.set_major_formatter("{x:g}")
    axes.margins(x=0.14, y=0.08)
    if known:
        values = [one.top1 for one in known] + [ceilings[one.method, one.frames] for one in limits]
        low, high = axes.get_ylim()
        axes.set_ylim(max(low, min(values) - 20), min(high, max(values) + 20))  # intervals of few seeds are longer
        handles, labels = axes.get_legend_handles_labels()  # lines come before error bars
        order = sorted(range(len(labels)), key=lambda k: labels[k] == LIMIT)
        figure.legend(
            [handles[k] for k in order], [labels[k] for k in order], loc="outside right center", frameon=False
        )
    axes.grid(which="major", alpha=0.35)
    axes.set_title(title, fontsize=11)
    return save(figure, stem)


def save(figure: Figure, stem: str | os.PathLike) -> list[Path]:
    """Write ``stem``.png and ``stem``.svg and return both; the same figure gives the same bytes."""
    paths = [Path(f"{stem}.{suffix}") for suffix in ("png", "svg")]
    for file in paths:
        _save(figure, file)
    return paths


def _save(figure: Figure, file: Path, title: str | None = None, dpi: int = 150) -> None:
    import matplotlib

    format = file.suffix[1:].lower()
    metadata = ({"Title": title} if title else {}) | ({"Date": None} if format == "svg" else {})
    with matplotlib.rc_context({"svg.hashsalt": "egodistill"}), files.atomic_write(file) as part:
        figure.savefig(part, format=format, dpi=dpi, metadata=metadata)


def error_bars(line: Sequence[Row]) -> list[list[float]]:
    """Return how far the error bars of these points reach down and up, as matplotlib wants them: [2][points]."""
    ends = [
        (one.top1 - one.interval.low, one.interval.high - one.top1) if one.interval else (one.std or 0.0,) * 2
        for one in line
    ]
    return [[max(0.0, end[side]) for end in ends] for side in (0, 1)]


# Rows of `draw_check()`: name and column of the axis of the turn; component, sign and direction of the shift it causes.
_TURNS = (
    ("about Z (up)", 2, 0, 1, "right"),
    ("about X (left)", 0, 1, -1, "up"),
    ("about Y (back)", 1, None, 0, ""),
)
_TURNED, _MOVED = "#0072B2", "#D55E00"


def require_picture(path: str | os.PathLike) -> None:
    """Raise DataError unless a picture can be drawn and written to this path: PNG or SVG, by matplotlib.

    >>> from egodistill import plots
    >>> plots.require_picture("check.gif")
    Traceback (most recent call last):
    ...
    egodistill.DataError: check.gif: a picture is written as PNG or SVG; its name must end in .png or .svg
    """
    if Path(path).suffix.lower() not in (".png", ".svg"):
        raise DataError(f"{path}: a picture is written as PNG or SVG; its name must end in .png or .svg")
    if importlib.util.find_spec("matplotlib") is None:
        raise DataError(f'{path}: a picture needs matplotlib: pip install "egodistill[tutorials]"')


def draw_check(found: Check, path: str | os.PathLike) -> Path:
    """Draw what the sensors of a recording measured beside the motion of its picture; write and return ``path``.

    The excerpt with the largest turns is drawn: first the gyroscope's turn about each axis, and how far the picture
    moved meanwhile; then the accelerometer. In camera axes (X to the left, Y to the user, Z up) the two curves of a
    row are alike. Raise DataError if the recording has no IMU, for another suffix than .png and .svg, and if matplotlib
    is not installed.

    >>> from egodistill import plots, recordings
    >>> plots.draw_check(recordings.check("walk.mp4"), "check.png").name
    'check.png'
    """
    require_picture(path)
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    if not found.rates:
        raise DataError(f"{found.path}: its sensors cannot be drawn: {found.problem or 'there is no IMU'}")
    rates = max(found.rates, key=lambda one: float((one.weights[:, None] * one.turns**2).sum()))
    figure = Figure(figsize=(11, 8), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(4, 2, width_ratios=(3.4, 1))
    for (name, axis, component, sign, way), (curves, cloud) in zip(_TURNS, grid, strict=False):
        turns = np.degrees(rates.turns[:, axis])
        curves.plot(rates.times, turns, color=_TURNED, lw=2.2, alpha=0.65)
        curves.set_ylabel(f"{name}\n°/s", color=_TURNED)
        if component is None:
            cloud.text(0, 0.5, "A roll does not shift\nthe picture.", va="center")
            cloud.axis("off")
            continue
        moves = sign * rates.shifts[:, component]
        limit = 1.05 * max(float(np.abs(turns).max()), 1.0)
        curves.set_ylim(-limit, limit)
        picture = curves.twinx()
        picture.plot(rates.times, np.where(rates.weights > 0, moves, np.nan), color=_MOVED, lw=1.2, ls="--")
        picture.set_ylabel(f"picture moves {way}\npixels/s", color=_MOVED)
        limit *= _pixels_per_degree(found, component, turns, moves, rates.weights)
        picture.set_ylim(-limit, limit)
        cloud.scatter(turns, moves, 12 * rates.weights, color="#555555", linewidths=0)
        cloud.set(xlabel="gyroscope (°/s)", ylabel="picture (pixels/s)")
        cloud.set_title(f"correlation {_correlation(turns, moves, rates.weights):+.2f}", fontsize=10)
    pulled, beside = grid[3]
    for name, line, values in zip("XYZ", (":", "--", "-"), rates.accel.T, strict=True):
        pulled.plot(rates.times, values, color="black", ls=line, lw=1.2, label=name)
    pulled.axhline(9.81, color="#999999", lw=0.8, label="9.81")
    pulled.set(ylabel="accelerometer\nm/s²", xlabel="time in the video (s)")
    beside.legend(*pulled.get_legend_handles_labels(), loc="center left", frameon=False)
    beside.axis("off")
    for curves in grid[:, 0]:
        curves.set_xlim(rates.times[0], rates.times[-1])
    title = f"{Path(found.path).name}\n{textwrap.fill(found.verdict(), 130)}"
    title = title.encode(errors="backslashreplace").decode()  # a name may be no UTF-8, and have dollars
    figure.suptitle(title, fontsize=10, parse_math=False)
    _save(figure, Path(path), CHECK_TITLE, dpi=110)
    return Path(path)


def _correlation(one: np.ndarray, other: np.ndarray, weights: np.ndarray) -> float:
    """Return the weighted correlation of two series; 0 if one of them does not change."""
    if not weights.sum() > 0:
        return 0.0
    (a, both), (_, b) = np.cov(one, other, aweights=weights, ddof=0)
    return float(both / np.sqrt(a * b)) if a * b > 0 else 0.0


def _pixels_per_degree(
    found: Check, component: int, turns: np.ndarray, moves: np.ndarray, weights: np.ndarray
) -> float:
    """Return pixels per degree, which scale the two curves alike: as measured, or so that both have equal power."""
    if found.axes is not None and found.axes.reliable:
        return float(np.radians(found.axes.pixels_per_radian[component]))
    return float(np.sqrt((weights @ moves**2 + 1e-9) / (weights @ turns**2 + 1e-9)))
