"""Tables of results: as text for a terminal, as Markdown, and as sections of a document that a program rewrites.

    from egodistill import tables

    table = tables.Table(["model", "top-1"], [["EgoDistill", "76.2"], ["VisOnly", "39.0"]])
    print(table.text())
    tables.write_section("RESULTS.md", "demo", table, caption="`egodistill demo`, three seeds")

RESULTS.md consists of such sections: the text around them is written by hand, the tables by `--markdown`.
"""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import platform
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import egodistill
from egodistill import DataError, files

__all__ = ["Table", "processor", "provenance", "write_section"]


@dataclass(frozen=True)
class Table:
    """A table of text: a header and rows of as many cells. The first column is aligned left, the others right.

    >>> from egodistill import tables
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
        widths = [max(map(len, column)) for column in zip(self.header, *self.rows, strict=True)]
        lines = []
        for row in [self.header, ["-" * width for width in widths], *self.rows]:
            others = (cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))
            lines.append("  ".join([row[0].ljust(widths[0]), *others]).rstrip())
        return "\n".join(lines)

    def markdown(self) -> str:
        """Return the table in Markdown."""
        rows = [self.header, ["---", *["---:"] * (len(self.header) - 1)], *self.rows]
        return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows)


def write_section(path: str | os.PathLike, name: str, table: Table, *, caption: str = "") -> None:
    """Write a table with a caption into a Markdown document, between the comments `<!-- name -->` and `<!-- /name -->`.

    The section is replaced if the document has it, and else added at its end. A missing document is created. Raise
    DataError for a section without an end, EgoDistillOSError if the document cannot be written.
    """
    path = Path(path)
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    begin, end = f"<!-- {name} -->", f"<!-- /{name} -->"
    section = "\n\n".join([begin, table.markdown(), *([caption] if caption else []), end])
    if begin not in text:
        text = f"{text.rstrip()}\n\n{section}\n".lstrip()
    elif end not in text:
        raise DataError(f"{path}: the section {begin} has no end {end}; add it after the table")
    else:
        text = re.sub(re.escape(begin) + ".*?" + re.escape(end), lambda _: section, text, count=1, flags=re.DOTALL)
    with files.atomic_write(path) as part:
        part.write_text(text, encoding="utf-8")


def provenance(command: str) -> str:
    """Return a caption: the command, versions, processor and date."""
    versions = f"egodistill {egodistill.__version__}, torch {importlib.metadata.version('torch')}"
    return f"`{command}`; {versions}, {processor()}, {files.available_cores()} cores, {datetime.date.today()}."


def processor() -> str:
    """Return the name of the processor."""
    info = Path("/proc/cpuinfo")
    names = re.findall(r"(?m)^model name\s*:\s*(.+)$", info.read_text(encoding="utf-8")) if info.exists() else []
    return names[0] if names else platform.processor() or platform.machine()
