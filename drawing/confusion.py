"""The confusion matrix of a model, and its accuracy on each class.

from egodistill.drawing import confusion

found = evaluate(model, test)
confusion.draw_confusion(found.confusion.numpy(), test.class_names, "test.png", "student.pt on the split test")
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from . import canvas

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["MOST", "draw_confusion"]

MOST = 30  # classes that can be read in one matrix
NUMBERED = 20  # ... with a number in each cell


def draw_confusion(
    confusion: np.ndarray,
    class_names: Sequence[str],
    path: str | os.PathLike,
    subject: str,
    title: str = "egodistill",
) -> None:
    """Draw what a model says about segments of each class, and its accuracy on them.

    Of more than 30 classes, the 30 most frequent ones are drawn; what the model takes for others has a column. Raise
    ImportError without matplotlib.

    Args:
        confusion: int64 [C, C], rows are true classes, columns predicted ones.
        class_names: Name of each class.
        path: The .png to write.
        subject: What was evaluated, for the heading.
        title: The title in the file's metadata.

    >>> import numpy as np
    >>> from egodistill.drawing import confusion
    >>> confusion.draw_confusion(np.array([[8, 2], [1, 9]]), ["open", "close"], "test.png", "student.pt")
    """
    shown, counts = shown_classes(confusion), confusion.sum(1)
    cells = confusion[np.ix_(shown, shown)]
    others = counts[shown] - cells.sum(1)
    labels = [canvas.name(class_names[k]) for k in shown]
    if others.any():
        cells, columns = np.column_stack([cells, others]), [*labels, "other classes"]
    else:
        columns = labels
    side = max(2.0, (0.42 if len(shown) <= NUMBERED else 0.32) * len(columns))
    occurring, total = int((counts > 0).sum()), int(counts.sum())
    text = f"{subject}: top-1 {100 * np.trace(confusion) / max(total, 1):.1f} % of {total:,} segments"
    if len(shown) < occurring:
        text += f"\nthe {len(shown)} most frequent of {occurring} classes, {counts[shown].sum():,} of these segments"
    with canvas.picture(path, (side + 6.5, side + 2.8), title) as figure:
        matrix, bars = figure.subplots(1, 2, sharey=True, width_ratios=(side, 2.6))
        draw_matrix(matrix, 100 * cells / np.maximum(counts[shown], 1)[:, None], labels, columns)
        draw_bars(bars, np.diag(cells), counts[shown])
        canvas.heading(figure, text)


def shown_classes(confusion: np.ndarray) -> np.ndarray:
    """Return the classes that are drawn: all that occur or, of more than `MOST`, the most frequent ones."""
    counts = confusion.sum(1)
    known = np.flatnonzero(counts + confusion.sum(0))
    return known if len(known) <= MOST else np.sort(np.argsort(-counts, kind="stable")[:MOST])


def draw_matrix(axes: Axes, shares: np.ndarray, rows: Sequence[str], columns: Sequence[str]) -> None:
    """Draw the shares of each true class, in %, that were taken for each class."""
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=100, aspect="auto")
    axes.spines[:].set_visible(False)
    axes.set_xticks(range(len(columns)), columns, rotation=45, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(rows)), rows)
    axes.set(xlabel="predicted class", ylabel="true class", title="share of each true class (%)")
    axes.tick_params(length=0)
    small = len(rows) > NUMBERED
    for (row, column), share in np.ndenumerate(shares):
        if share >= (5 if small else 0.5):
            color = "white" if share > 55 else "black"
            axes.text(column, row, f"{share:.0f}", ha="center", va="center", color=color, fontsize=7 if small else 9)


def draw_bars(axes: Axes, right: np.ndarray, counts: np.ndarray) -> None:
    """Draw the accuracy on each class beside its row; a class without segments has none."""
    known = np.flatnonzero(counts)
    shares = 100 * right[known] / counts[known]
    axes.barh(known, shares, height=0.7, color=canvas.SKY)
    for row, share in zip(known, shares, strict=True):
        axes.text(102, row, f"{share:.0f} % of {counts[row]:,}", va="center", fontsize=9)
    axes.set(xlim=(0, 100), xlabel="%", title="accuracy by class")
    axes.tick_params(axis="y", length=0, labelleft=False)
    axes.spines["left"].set_visible(False)
