"""Tables of results: as text for a terminal, as Markdown, and as sections of a document that a program rewrites.

`printable()` and `csv_text()` clean names that come from files before they are printed or written as CSV.

    from egodistill.support import tables

    table = tables.Table(["model", "top-1"], [["EgoDistill", "76.2"], ["VisOnly", "39.0"]])
    tables.report(table, "demo", "results/demo.md", ["egodistill", "demo"])      # prints it, and writes it there

Commands and benchmarks call `report()` for each table, and have an option `--markdown FILE` for the document. A section
is named after the command and the processor, so a later run replaces the table of the same machine. The text around the
sections is written by hand.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.metadata
import math
import os
import platform
import re
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from . import files
from .errors import DataError
from .version import __version__

__all__ = [
    "Table",
    "command_line",
    "pluralize",
    "csv_text",
    "markdown_option",
    "printable",
    "processor",
    "provenance",
    "report",
    "scores_text",
    "short_processor",
    "write_section",
]


# Characters that act on a terminal: controls, line breaks, marks of direction; and halves of pairs, which UTF-8 lacks
ACTING = re.compile(r"[\x00-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def pluralize(count: int, what: str) -> str:
    """Return a number of things in words: 1 video, 2 videos; the plural of `what` ends in s or es.

    >>> from egodistill.support import tables
    >>> tables.pluralize(1, "class"), tables.pluralize(3806, "class"), tables.pluralize(0, "video")
    ('1 class', '3,806 classes', '0 videos')
    """
    return f"{count:,} {what}{'' if count == 1 else 'es' if what.endswith('s') else 's'}"


def printable(text: str) -> str:
    """Return a text whose control characters, line breaks and marks of direction are written as escapes.

    >>> from egodistill.support import tables
    >>> tables.printable("open\\x1b[2J\\ndoor")
    'open\\\\x1b[2J\\\\ndoor'
    """
    return ACTING.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def scores_text(scores: Sequence[float]) -> list[str]:
    """Return probabilities with two decimals, or more if the first one needs them for two digits."""
    decimals = max(2, 1 - math.floor(math.log10(scores[0]))) if len(scores) and scores[0] > 0 else 2
    return [f"{score:.{decimals}f}" for score in scores]


def csv_text(text: str) -> str:
    """Return a printable text that no spreadsheet takes for a formula: one that could be begins with an apostrophe."""
    return ("'" if text.lstrip().startswith(("=", "+", "-", "@", "＝", "＋", "－", "＠")) else "") + printable(text)


@dataclass(frozen=True)
class Table:
    """A table of text. The first column is aligned left, the others right.

    >>> from egodistill.support import tables
    >>> table = tables.Table(["model", "top-1"], [["EgoDistill", "76.2"], ["VisOnly", "39.0"]])
    >>> print(table.text())
    model       top-1
    ----------  -----
    EgoDistill   76.2
    VisOnly      39.0
    >>> print(table.markdown())
    | model | top-1 |
    | --- | ---: |
    | EgoDistill | 76.2 |
    | VisOnly | 39.0 |
    """

    header: Sequence[str]
    rows: Sequence[Sequence[str]]

    def text(self) -> str:
        """Return the table as columns of text."""
        header, *rows = self.printable()
        widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
        lines = []
        for row in [header, ["-" * width for width in widths], *rows]:
            others = (cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))
            lines.append("  ".join([row[0].ljust(widths[0]), *others]).rstrip())
        return "\n".join(lines)

    def printable(self) -> list[list[str]]:
        """Return header and rows with printable cells."""
        return [list(map(printable, row)) for row in (self.header, *self.rows)]

    def markdown(self) -> str:
        """Return the table in Markdown."""
        header, *rows = self.printable()
        rows = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
        return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows)


def markdown_option(parser: argparse.ArgumentParser, kind: Callable[[str], str] = str) -> None:
    """Add --markdown, the document of `report()`, with a type."""
    text = "also write each table to a section of this Markdown document, named after the command and the processor"
    parser.add_argument("--markdown", metavar="FILE", type=kind, help=text)


def report(
    table: Table,
    name: str,
    path: str | os.PathLike | None,
    words: Sequence[str],
    *,
    machine: str | None = None,
    origin: str | None = None,
) -> None:
    """Print a table; with a path, also write it to the section "NAME, MACHINE" of that Markdown document.

    Raise what `write_section()` does. `words` are the command, as in `sys.argv`, for the caption; `machine` is what the
    numbers depend on, by default the processor. Numbers that are computed from lines, wherever these were made, have an
    `origin` instead, the processors of the lines: their section is NAME, so that no table of fewer lines stays.
    """
    print(table.text())
    if path is not None:
        caption = provenance(f"`{command_line(words)}`", origin or machine)
        section = name if origin else f"{name}, {machine or short_processor()}"
        write_section(path, section, table, caption=caption)


def write_section(path: str | os.PathLike, name: str, table: Table, *, caption: str = "") -> None:
    """Write a table with a caption into a Markdown document, between the comments `<!-- name -->` and `<!-- /name -->`.

    If the document already has this section, replace it; otherwise append it. A missing document is created. Raise
    DataError if the section has no end, and EgoDistillOSError if the document cannot be written.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8") if path.exists() else ""
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not a UTF-8 document: {error}; save it as UTF-8, or give another one") from error
    begin, end = f"<!-- {name} -->", f"<!-- /{name} -->"
    section = "\n\n".join([begin, table.markdown(), *([caption] if caption else []), end])
    if begin not in text:
        text = f"{text.rstrip()}\n\n{section}\n".lstrip()
    elif end not in text[text.index(begin) :]:
        raise DataError(f"{path}: the section {begin} has no end {end}; add it after the table")
    else:
        text = re.sub(re.escape(begin) + ".*?" + re.escape(end), lambda _: section, text, count=1, flags=re.DOTALL)
    with files.atomic_write(path) as part:
        part.write_text(text, encoding="utf-8")


def provenance(command: str, machine: str | None = None) -> str:
    """Return a caption: the command, versions, machine (by default the processor), number of cores and date."""
    versions = f"egodistill {__version__}, torch {importlib.metadata.version('torch')}"
    return f"{command}; {versions}, {machine or processor()}, {files.available_cores()} cores, {datetime.date.today()}."


def command_line(words: Sequence[str]) -> str:
    """Return a command, as in `sys.argv`, as one would type it, without --markdown, but with OMP_NUM_THREADS."""
    program, *rest = words
    if program.endswith(".py"):
        path = Path(program)
        program = f"python -m lab.{path.stem}" if path.parent.name == "lab" else f"python benchmarks/{path.name}"
    if "--markdown" in rest:
        place = rest.index("--markdown")
        rest = rest[:place] + rest[place + 2 :]
    rest = [word for word in rest if not word.startswith("--markdown=")]
    threads = os.environ.get("OMP_NUM_THREADS")
    return " ".join([*([f"OMP_NUM_THREADS={threads}"] if threads else []), program, *map(shlex.quote, rest)])


def processor() -> str:
    """Return the full name of the processor."""
    info = Path("/proc/cpuinfo")
    names = re.findall(r"(?m)^model name\s*:\s*(.+)$", info.read_text(encoding="utf-8")) if info.exists() else []
    return names[0] if names else platform.processor() or platform.machine()


def short_processor(name: str | None = None) -> str:
    """Return vendor and family of a processor (None: this machine's), such as "AMD EPYC" or "Intel Xeon"."""
    name = re.sub(r"\((R|TM)\)|\bCPU\b|^\d+th Gen ", " ", name or processor())
    return " ".join(name.split()[:2])
