"""The losses and accuracies of a training, epoch by epoch.

from egodistill.drawing import curves

curves.draw_curves(history, "student.png", "student.pt")             # history: what `distill()` returned
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from . import canvas

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["draw_curves"]

VALIDATION = "validation_"
SHARES = ("top1", "agreement", "matching")  # ends of the names of what is drawn in %
SPEED = ("learning_rate", "clips_per_second", "loader_share", "epoch")
NAMES = {
    "kd": "L_KD, teacher's classes",
    "gt": "L_GT, labels",
    "l1": "L_1, teacher's feature",
    "nce": "L_NCE, matching",
    "top1": "top-1",
    "agreement": "agreement with the teacher",
    "matching": "clips matched to their IMU in the batch",
}


def draw_curves(
    history: Sequence[Mapping[str, float]], path: str | os.PathLike, subject: str, title: str = "egodistill"
) -> None:
    """Draw the losses of a training and, beside them, its accuracies. Raise ImportError without matplotlib.

    Curves of training clips are solid; those of validation clips are dashed, and the epoch that is kept is marked.

    Args:
        history: One dict per epoch, as a training returns it.
        path: The .png to write.
        subject: What was trained, for the heading.
        title: The title in the file's metadata.

    >>> from egodistill.drawing import curves
    >>> history = [{"loss": 2.0, "top1": 0.3}, {"loss": 1.5, "top1": 0.5}]
    >>> curves.draw_curves(history, "student.png", "student.pt")
    """
    names = [name for name in dict.fromkeys(name for row in history for name in row) if name not in SPEED]
    shares = [name for name in names if name.endswith(SHARES)]
    losses = [name for name in names if name not in shares]
    with canvas.picture(path, (11 if shares else 6.5, 4.6), title) as figure:
        panels = figure.subplots(1, 2 if shares else 1, squeeze=False)[0]
        for axes, drawn, factor in zip(panels, (losses, shares), (1, 100), strict=False):
            draw_panel(axes, history, drawn, factor)
        panels[0].set_title("loss")
        scale_losses(panels[0], [row[name] for row in history for name in losses if name in row])
        if shares:
            panels[1].set_title("share of clips (%)")
            panels[1].set_ylim(0, 101)
        canvas.heading(figure, f"{subject}: {len(history)} epoch{'s' * (len(history) > 1)}")


def draw_panel(axes: Axes, history: Sequence[Mapping[str, float]], names: Sequence[str], factor: int) -> None:
    """Draw these values over the epochs, and mark the epoch whose weights are kept."""
    from matplotlib.ticker import MaxNLocator

    epochs = range(1, len(history) + 1)
    plain = list(dict.fromkeys(name.removeprefix(VALIDATION) for name in names))
    for name in names:
        what = name.removeprefix(VALIDATION)
        checked = what != name
        style = {"color": canvas.COLOURS[plain.index(what) % len(canvas.COLOURS)], "ls": "--" if checked else "-"}
        style |= {"lw": 2.2 if what in ("loss", "top1") else 1.5, "marker": "o" if len(history) < 12 else None, "ms": 4}
        label = None if checked and what in names else NAMES.get(what, what)
        axes.plot(epochs, [factor * row.get(name, np.nan) for row in history], label=label, **style)
    if len(plain) < len(names):
        axes.plot([], [], color=canvas.GREY, ls="--", label="dashed: validation clips")
    if (best := best_epoch(history)) is not None:
        axes.axvline(best, color=canvas.GREY, lw=1, ls=":", label=f"epoch {best}: its weights are kept")
    axes.set(xlabel="epoch", xlim=(1, len(history)) if len(history) > 1 else (0.5, 1.5))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.grid(axis="y")
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=2, fontsize=9)


def best_epoch(history: Sequence[Mapping[str, float]]) -> int | None:
    """Return the epoch whose weights a training keeps, from 1 on; None if it had no validation clips."""
    scores = [row.get(f"{VALIDATION}top1", -row.get(f"{VALIDATION}loss", np.nan)) for row in history]
    return None if np.isnan(scores).any() else 1 + int(np.argmax(scores))


def scale_losses(axes: Axes, values: Sequence[float]) -> None:
    """Draw losses of different sizes on a logarithmic axis, which needs numbers above 0."""
    from matplotlib.ticker import LogLocator, NullFormatter

    known = np.asarray([value for value in values if np.isfinite(value)])
    if len(known) and known.min() > 0 and known.max() > 4 * known.min():
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter(NullFormatter())
