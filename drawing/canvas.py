"""What all pictures share: size, fonts, colours, and how they are written.

    from egodistill.drawing import canvas

    with canvas.picture("losses.png", (8, 4), "losses") as figure:
        figure.subplots().plot([3, 2, 1])

matplotlib is the extra `plots`; it is imported when a picture is drawn.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from ..support import files
from ..support.tables import printable

if TYPE_CHECKING:
    from matplotlib.figure import Figure, SubFigure

__all__ = ["COLOURS", "EXTRA", "GREY", "can_draw", "heading", "name", "picture", "save_figure"]

EXTRA = 'pip install "egodistill[plots]"'  # what brings matplotlib
# Colours of Okabe and Ito, which colour-blind readers distinguish; their yellow is too light for a line.
BLUE, ORANGE, GREEN, SKY, AMBER, PINK = COLOURS = ("#0072B2", "#D55E00", "#009E73", "#56B4E9", "#E69F00", "#CC79A7")
GREY = "#666666"
STYLE = {
    "axes.axisbelow": True,
    "axes.edgecolor": GREY,
    "axes.grid": False,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 11,
    "font.size": 10,
    "grid.color": "#E5E5E5",
    "legend.frameon": False,
    "text.parse_math": False,  # names of files and classes may have dollars
    "xtick.color": GREY,
    "xtick.labelcolor": "black",
    "ytick.color": GREY,
    "ytick.labelcolor": "black",
}


def can_draw() -> bool:
    """Return whether matplotlib is installed; it is not imported."""
    return importlib.util.find_spec("matplotlib") is not None


@contextlib.contextmanager
def picture(path: str | os.PathLike, size: tuple[float, float], title: str) -> Iterator[Figure]:
    """Yield an empty figure in the style of all pictures, and write it as PNG at the end.

    Args:
        path: The file to write.
        size: Width and height in inches, of 120 dots.
        title: The title in the file's metadata, which distinguishes earlier results from other pictures.
    """
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with matplotlib.rc_context(STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph", UserWarning)  # a script that the font lacks is drawn as boxes
        figure = Figure(figsize=size, layout="constrained")
        FigureCanvasAgg(figure)
        yield figure
        save_figure(figure, Path(path), title, dpi=120)


def heading(figure: Figure | SubFigure, text: str) -> None:
    """Write what a picture shows above it, on the left.

    Args:
        figure: The figure, or a part of it.
        text: The heading.
    """
    figure.suptitle("\n".join(map(printable, text.splitlines())), x=0.01, ha="left", fontsize=12)


def save_figure(figure: Figure, file: Path, title: str | None = None, dpi: int = 150) -> None:
    """Write a figure atomically, and the same bytes each time.

    Args:
        figure: The figure of matplotlib.
        file: Where to write it: .png or .svg.
        title: The title in the file's metadata.
        dpi: Dots per inch of a PNG.
    """
    import matplotlib

    format = file.suffix[1:].lower()
    metadata = ({"Title": title} if title else {}) | ({"Date": None} if format == "svg" else {})
    with matplotlib.rc_context({"svg.hashsalt": "egodistill"}), files.atomic_write(file) as part:
        figure.savefig(part, format=format, dpi=dpi, metadata=metadata)


def name(text: str, length: int = 28) -> str:
    """Return the name of a class or a file as it is drawn: printable, and at most `length` characters.

    Args:
        text: The name.
        length: Characters; the middle of a longer name is left out.

    >>> from egodistill.drawing import canvas
    >>> canvas.name("stir the sauce in the large pan", 20)
    'stir the s…large pan'
    """
    text = printable(text)
    kept = (length - 1) // 2
    return text if len(text) <= length else f"{text[: length - 1 - kept]}…{text[-kept:]}"
