"""The picture of a recording's sensors beside the motion of its frames, for `check --plot`.

    from egodistill import recordings

    recordings.draw_check(recordings.check("walk.mp4"), "check.png")

matplotlib is the extra `plots`; it is imported when a picture is drawn.
"""

from __future__ import annotations

import os
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..drawing import canvas
from ..support.errors import DataError

if TYPE_CHECKING:
    from .checks import Check

__all__ = ["CHECK_TITLE", "draw_check", "require_picture"]

CHECK_TITLE = "egodistill check"  # in the files of `draw_check()`: distinguishes earlier results from other pictures


# Rows of `draw_check()`: name and column of the axis of the turn; component, sign and direction of the shift it causes.
_TURNS = (
    ("about Z (up)", 2, 0, 1, "right"),
    ("about X (left)", 0, 1, -1, "up"),
    ("about Y (back)", 1, None, 0, ""),
)
_TURNED, _MOVED = canvas.BLUE, canvas.ORANGE


def require_picture(path: str | os.PathLike) -> None:
    """Raise DataError unless a picture can be drawn and written to this path: PNG or SVG, by matplotlib."""
    if Path(path).suffix.lower() not in (".png", ".svg"):
        raise DataError(f"{path}: a picture is written as PNG or SVG; its name must end in .png or .svg")
    if not canvas.can_draw():
        raise DataError(f"{path}: a picture needs matplotlib: {canvas.EXTRA}")


def draw_check(found: Check, path: str | os.PathLike) -> Path:
    """Draw what the sensors of a recording measured beside the motion of its picture; return the path.

    The excerpt with the largest turns is drawn: first the gyroscope's turn about each axis, and how far the picture
    moved meanwhile; then the accelerometer. In camera axes (X to the left, Y to the user, Z up) the two curves of a
    row are alike. Raise DataError if the recording has no IMU or matplotlib is not installed.

    Args:
        found: The result of `check()`.
        path: The file to write, .png or .svg; another suffix is a DataError.

    >>> from egodistill import recordings
    >>> recordings.draw_check(recordings.check("walk.mp4"), "check.png").name
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
    first, last, length = rates.times[0], rates.times[-1], found.duration or 0.0
    part = f": the excerpt with the largest turns, {first:.0f} to {last:.0f} of {length:.0f} s"
    verdict = textwrap.fill(found.verdict(), 130, break_on_hyphens=False)
    title = f"{Path(found.path).name}{part if last - first < 0.9 * length else ''}\n{verdict}"
    title = title.encode(errors="backslashreplace").decode()  # a name need not be UTF-8, and may have dollars
    figure.suptitle(title, fontsize=10, parse_math=False)
    canvas.save_figure(figure, Path(path), CHECK_TITLE, dpi=110)
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
