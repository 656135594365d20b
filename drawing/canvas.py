"""Colours of all pictures, and how figures of matplotlib are written.

    from egodistill.drawing import canvas

    canvas.save_figure(figure, Path("losses.png"))

matplotlib is the extra `plots`; it is imported when a figure is drawn.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING

from ..support import files

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["COLOURS", "EXTRA", "GREY", "can_draw", "save_figure"]

EXTRA = 'pip install "egodistill[plots]"'  # what brings matplotlib
# Colours of Okabe and Ito, which colour-blind readers distinguish; their yellow is too light for a line.
BLUE, ORANGE, GREEN, SKY, AMBER, PINK = COLOURS = ("#0072B2", "#D55E00", "#009E73", "#56B4E9", "#E69F00", "#CC79A7")
GREY = "#666666"


def can_draw() -> bool:
    """Return whether matplotlib is installed; it is not imported."""
    return importlib.util.find_spec("matplotlib") is not None


def save_figure(figure: Figure, file: Path, title: str | None = None, dpi: int = 150) -> None:
    """Write a figure as .png or .svg, atomically and the same bytes each time; `title` is in the file's metadata."""
    import matplotlib

    format = file.suffix[1:].lower()
    metadata = ({"Title": title} if title else {}) | ({"Date": None} if format == "svg" else {})
    with matplotlib.rc_context({"svg.hashsalt": "egodistill"}), files.atomic_write(file) as part:
        figure.savefig(part, format=format, dpi=dpi, metadata=metadata)
