"""The paper's Figure 3, accuracy against cost, drawn with matplotlib.

    from lab import figures, paper

    figures.draw(rows, "out/compare")                # rows of `paper.rows()`

matplotlib is the extra `plots`; it is imported when a figure is drawn.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from egodistill.drawing import canvas

if TYPE_CHECKING:  # no torch here
    from matplotlib.figure import Figure

    from lab.paper import Row

__all__ = ["draw", "save"]

OWN_MARKERS = "hp<>"  # of methods of one's own
LIMIT = "what its inputs tell"  # in the legend of `draw()`


# Colours of Okabe and Ito; markers, lines and grey values also distinguish the methods in a grey print.
STYLES: dict[str, dict[str, Any]] = {
    "EgoDistill": {"color": canvas.ORANGE, "marker": "o", "linewidth": 2.4, "markersize": 8},
    "VisIMU": {"color": canvas.AMBER, "marker": "s", "linestyle": "--"},
    "VisOnly-Distill": {"color": canvas.BLUE, "marker": "^"},
    "VisOnly": {"color": canvas.SKY, "marker": "v", "linestyle": "--"},
    "ListenToLook": {"color": canvas.GREEN, "marker": "D", "linestyle": "-."},
    "AdaFuse": {"color": "#000000", "marker": "P", "linestyle": "none", "markersize": 9},
    "STTS": {"color": canvas.PINK, "marker": "X", "linestyle": ":", "markersize": 9},
    "teacher": {"color": "#555555", "marker": "*", "linestyle": "none", "markersize": 13},
}


def draw(
    rows: Sequence[Row],
    stem: str | os.PathLike,
    title: str = "",
    ceilings: Mapping[tuple[str, int], float] | None = None,
) -> list[Path]:
    """Draw accuracy against GMACs, the paper's Figure 3; write and return a .png and a .svg.

    Error bars are the 95 % intervals of the rows, or their standard deviations if they have none. Raise ImportError if
    matplotlib is not installed. Rows without GMACs are left out. `stem` is the path of the files without a suffix;
    `ceilings` are {(method, frames): accuracy in %}, the best that a method's inputs allow, drawn as short lines.

    >>> from lab import figures, paper
    >>> row = paper.Row("EgoDistill", 1, "1 frame + IMU", 76.2, 1.1, [], 0.057, None, None, {}, None)
    >>> [file.name for file in figures.draw([row], "figure3")]
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
    own = list(dict.fromkeys(one.method for one in known if family(one.method) not in STYLES))
    drawn = [
        (name, {"color": canvas.GREY, "linestyle": "-.", "marker": OWN_MARKERS[k % 4], "markersize": 9})
        for k, name in enumerate(own)
    ]
    for method, style in [*STYLES.items(), *drawn]:
        line = sorted((one for one in known if method in (one.method, family(one.method))), key=lambda one: one.gmacs)
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
        axes.plot(one.gmacs, ceilings[one.method, one.frames], color=STYLES[family(one.method)]["color"], **style)
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


def family(method: str) -> str:
    """Return the name of the methods that are drawn as one line: "STTS" for each of its variants."""
    return "STTS" if method.startswith("STTS ") else method


def save(figure: Figure, stem: str | os.PathLike) -> list[Path]:
    """Write a figure as .png and .svg, and return both paths; the same figure gives the same bytes."""
    paths = [Path(f"{stem}.{suffix}") for suffix in ("png", "svg")]
    for file in paths:
        canvas.save_figure(figure, file)
    return paths


def error_bars(line: Sequence[Row]) -> list[list[float]]:
    """Return how far the error bars of these points reach down and up, as matplotlib wants them: [2][points]."""
    ends = [
        (one.top1 - one.interval.low, one.interval.high - one.top1) if one.interval else (one.std or 0.0,) * 2
        for one in line
    ]
    return [[max(0.0, end[side]) for end in ends] for side in (0, 1)]
