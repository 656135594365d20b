"""The pictures that commands draw beside their results: student.png beside student.pt.

    pictures.plot_option(parser)                            # --no-plot
    pictures.draw_beside(arguments, arguments.out, lambda path, title: curves.draw_curves(..., path, title))

A picture is an addition: where there is none, a line says why, and the command goes on. This module does not import
torch or matplotlib.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..drawing import canvas
from ..support import files
from .paths import ANY, TRAINING, Made

__all__ = ["draw_beside", "picture_beside", "picture_of", "plot_option"]

SUFFIXES = (".pt", ".pth", ".ckpt", ".json", ".csv")  # the end of "tau1.5" is not a suffix


def plot_option(parser: Any) -> None:
    """Add --no-plot."""
    text = "write no picture (.png) beside the result"
    parser.add_argument("--no-plot", dest="plot", action="store_false", help=text)


def picture_of(out: str | os.PathLike) -> Path:
    """Return the path of the picture beside a result."""
    path = Path(out)
    return path.with_name((path.stem if path.suffix in SUFFIXES else path.name) + ".png")


def picture_beside(out: str | os.PathLike, a: argparse.Namespace) -> list[Made]:
    """Return the files of which one is the picture beside a result, for the role of its option."""
    drawn = a.plot and not files.is_stream(Path(out))
    return [Made(path, ANY) for path in dict.fromkeys((picture_of(out), Path(f"{out}.png"))) if drawn]


def title_of(path: Path) -> str | None:
    """Return the title of a picture that a command drew, such as "egodistill distill"; None for other files."""
    if not path.is_file():
        return None
    with path.open("rb") as file:
        found = re.search(rb"(?s)(.{4})tEXtTitle\0(egodistill \w+)", file.read(4096))
    # A chunk of a PNG has its length before it, and behind it a checksum, which may begin with a letter.
    return found and found[2][: int.from_bytes(found[1], "big") - 6].decode()


def draw_beside(a: argparse.Namespace, out: str | os.PathLike, draw: Callable[[Path, str], None]) -> None:
    """Draw the picture of a result beside it, and print its path, or why there is none, on stderr.

    Only a picture of an earlier run of the same command, or of another training, is replaced.

    Args:
        a: The parsed arguments, with `plot`.
        out: The result, which is written.
        draw: `draw(path, title)` draws the picture, with this title in its metadata.
    """
    if not a.plot or files.is_stream(Path(out)):
        return
    path, title = picture_of(out), f"egodistill {a.command}"
    # A training's picture is that of the model whose place `out` has taken; test.json may lie beside test.pt.
    ours = [f"egodistill {name}" for name in TRAINING] if a.command in TRAINING else [title]
    if title_of(path) not in (None, *ours):
        path = Path(f"{out}.png")
    if not canvas.can_draw():
        print(f"no picture beside {out}, because matplotlib is not installed: {canvas.EXTRA}", file=sys.stderr)
        return
    try:
        files.check_output(path, [out], overwrite=title_of(path) in ours)
        draw(path, title)
    except Exception as error:  # the result is written, and its picture must not cost it
        print(f"no picture beside {out}: {str(error).partition('; ')[0]}", file=sys.stderr)
    else:
        print(f"picture: {path}", file=sys.stderr)
