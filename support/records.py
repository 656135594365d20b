"""Read CSV tables with a header and JSON files of any size, a row or an object at a time.

    from egodistill.support import records

    for where, row in records.read_table(path, ("video", "start"), ("label",)):     # dicts of texts
        ...
    for where, key, item in records.json_items(path, ("videos",)):                  # dicts, one in memory at a time
        ...

Sizes are bounded, and every error is a DataError that names the file and the place in it. Only the standard library is
needed.
"""

from __future__ import annotations

import contextlib
import csv
import difflib
import json
import math
import re
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

from . import files
from .errors import DataError

__all__ = [
    "JSONReader",
    "class_number",
    "first_line",
    "first_name",
    "json_items",
    "number",
    "open_text",
    "read_table",
    "require_id",
    "start_and_stop",
]


LATEST = 1e6  # seconds, eleven days: no video is longer
MAX_LINE = 1 << 20  # characters of a table
MAX_TABLE = 1 << 30  # bytes; EPIC_100_train.csv has 12 MB
MAX_VALUE = 1 << 28  # characters of one video in Ego4D's annotations, whose whole file may have any size


def first_line(path: Path) -> str:
    """Return the first line of a table. Raise DataError if it cannot be read."""
    files.require_file(path, MAX_TABLE)
    try:
        with open(path, newline="", encoding="utf-8-sig", errors="replace") as file:
            return file.readline(MAX_LINE)
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error


def read_table(
    path: Path,
    needed: Sequence[str],
    optional: Sequence[str] | None = None,
    *,
    rows: range | None = None,
    delimiter: str = ",",
) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield the rows of a CSV with header, each with its place for error messages; column names become lower case.

    It must have the columns `needed` and may have `optional` ones. Others are an error, unless their names start with
    '#' or '_'; with None, they are ignored. `rows` is an ascending range counted from 0 below the header; the lines
    between them are not checked. Raise DataError with file and row.
    """
    line, place = 1, str(path)
    files.require_file(path, MAX_TABLE)
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(_lines(path, file, rows), delimiter=delimiter, skipinitialspace=delimiter == ",")
            header = [name.strip().lower() for name in next(reader, [])]
            while header and not header[-1]:
                header.pop()
            _check_header(path, header, needed, optional)
            line, least = reader.line_num + 1, max((header.index(name) + 1 for name in needed), default=0)
            for number, cells in enumerate(reader):
                line = 2 + rows[number] if rows is not None and number < len(rows) else line
                where, line = f"{place}, row {line}", reader.line_num + 1
                row = dict(zip(header, cells, strict=False))
                if broken := [name for name in row if "\n" in row[name] and not name.startswith(("#", "_"))]:
                    raise DataError(
                        f"{where}: the cell in column {broken[0]} goes on in the next row; close the quote, or write "
                        f"it twice if it belongs to the text"
                    )
                if any(cells[len(header) :]):
                    raise DataError(
                        f"{where}: {len(cells)} cells, but the header has {len(header)}; put quotes around a cell that "
                        f"contains a comma"
                    )
                if 0 < len(cells) < least:
                    raise DataError(f"{where}: fewer cells than the header")
                if cells:
                    yield where, {name: row.get(name, "").strip() for name in header}
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        what = f"not a CSV table in UTF-8 ({error.reason})"
        if zipfile.is_zipfile(path):
            what = "an archive, such as a workbook of Excel, not a CSV table"
        raise DataError(f"{path}: {what}; save it as CSV in UTF-8, or give another") from error
    except csv.Error as error:
        raise DataError(f"{path}, row {line}: not a CSV table: {error}; is a quote not closed?") from error


def _lines(path: Path, file: TextIO, rows: range | None) -> Iterator[str]:
    """Yield the lines of a table, the first and those of `rows`. Raise DataError for a line that is too long."""
    number = -1
    while line := file.readline(MAX_LINE):
        if len(line) == MAX_LINE:
            raise DataError(f"{path}: a line has more than {MAX_LINE} characters; is this a table?")
        if rows is None or number < 0 or number in rows:
            yield line
        if rows is not None and number >= rows.stop:
            return
        number += 1


# {column: what others call it}
OTHER_NAMES = {
    "video": ("file", "filename", "path", "video_path"),
    "start": ("begin", "from", "onset"),
    "stop": ("end", "end_time", "to", "offset"),
    "label": ("class", "action", "activity", "verb"),
}


def _check_header(path: Path, header: list[str], needed: Sequence[str], optional: Sequence[str] | None) -> None:
    """Raise DataError for missing and repeated columns, and, unless `optional` is None, for unknown ones."""
    text, known = ",".join(header), (*needed, *(optional or ()))
    if missing := [name for name in needed if name not in header]:
        for sign in ";\t":
            if set(needed) & {name.strip() for name in text.split(sign)}:
                raise DataError(f"{path}: its cells are separated by {sign!r}, must be ','")
        unknown = [name for name in header if name not in known]
        meant = [name for name in unknown if name.lower() in OTHER_NAMES.get(missing[0], ())]
        hint = f" (is it {meant[0]!r}? Rename it)" if meant else _similar(missing[0], unknown)
        raise DataError(f"{path}: no column {', '.join(missing)}{hint}; its header is {text or 'empty'}")
    if repeated := [name for name in known if header.count(name) > 1]:
        raise DataError(f"{path}: the column {repeated[0]} appears {header.count(repeated[0])} times in the header")
    unknown = [name for name in header if name not in known and not re.match("[#_]|$", name)]  # "": an index of pandas
    if unknown and optional is not None:
        raise DataError(
            f"{path}: unknown column {unknown[0]!r}{_similar(unknown[0], known)}; known are {', '.join(known)}, and "
            f"names that start with '#' or '_' are ignored"
        )


def _similar(name: str, others: Sequence[str]) -> str:
    """Return a hint at the most similar name, or ""."""
    found = difflib.get_close_matches(name, others, 1)
    return f" (similar: {found[0]!r})" if found else ""


def start_and_stop(where: str, start: str, stop: str) -> tuple[float, float]:
    """Return start and stop in seconds from text such as '83.5' or '00:01:23.50'.

    Raise DataError, with `where` (file and row), for other text and a stop that is not later.
    """
    seconds = []
    for text in (start, stop):
        try:
            units = [float(part) for part in text.split(":", 3)]
        except ValueError:
            units = [math.nan]
        value = units[0] if len(units) == 1 else sum(unit * 60**i for i, unit in enumerate(reversed(units)))
        if not (0 <= value <= LATEST and "-" not in text and len(units) <= 3):
            raise DataError(f"{where}: {files.shorten(text)} is not a time in seconds or HH:MM:SS")
        if len(units) > 1 and max(units[1:]) >= 60:
            raise DataError(f"{where}: {text!r} is not a time: minutes and seconds after a ':' are below 60")
        seconds.append(value)
    if seconds[1] <= seconds[0]:
        raise DataError(f"{where}: stop {stop} is not after start {start}")
    return seconds[0], seconds[1]


def number(where: str, name: str, value: object) -> float:
    """Return a cell of a table as a number, NaN if it is empty. Raise DataError if it is not a number."""
    try:
        return float(value if value not in ("", None) else "nan")
    except (TypeError, ValueError, OverflowError) as error:
        raise DataError(f"{where}: {name} {str(value)[:40]!r} is not a number") from error


def class_number(where: str, row: Mapping[str, str], column: str) -> int:
    """Return the number of a class in a row. Raise DataError if the cell is not a whole number."""
    if not re.fullmatch(r"\d{1,9}", row[column]):
        raise DataError(f"{where}: {column} {row[column][:40]!r} is not the whole number of a class")
    return int(row[column])


def require_id(where: str, name: object, what: str) -> str:
    """Return an id that becomes part of a path. Raise DataError unless it is a word of at most 200 bytes.

    An id that is not a word, such as "../x", could lead out of the root of the data set, and no file has a longer name.
    """
    if not isinstance(name, str) or not re.fullmatch(r"\w[\w-]*", name) or len(name.encode()) > 200:
        raise DataError(f"{where}: {name!r:.60} is not {what}")
    return name


def json_items(
    path: Path, names: Sequence[str] = (), chunk: int = 1 << 20, *, otherwise: str = "not a JSON object"
) -> Iterator[tuple[str, str | None, dict[str, Any]]]:
    """Yield the objects of the list or dict under one of these names in a JSON file; without names, of the whole file.

    Yield (place for error messages, key in a dict or None in a list, object). Only one object is in memory at a time.
    Raise DataError with file and place. A value that is not an object raises it with the text `otherwise`. `chunk`
    characters are read at once.
    """
    found = not names
    with _json_reader(path, chunk) as reader:
        for name in reader.members("{") if names else [""]:
            if names and name not in names:
                reader.value()
                continue
            found = True
            for number, key in enumerate(reader.members("[{")):
                item, where = reader.value(), f"{path}, {name}[{number if key is None else key!r}]"
                if not isinstance(item, dict):
                    raise DataError(f"{where}: {otherwise}")
                yield where, key, item
    if not found:
        raise DataError(f"{path}: no {' or '.join(map(repr, names))} at the top level; is this the right file?")


def first_name(path: Path, names: Sequence[str]) -> str | None:
    """Return the first of these names at the top level of a JSON file; None if it has none of them, or is a list.

    Raise DataError with file and place for invalid JSON before it.
    """
    with _json_reader(path, 1 << 20) as reader:
        for name in reader.members("[{"):
            if name is None or name in names:
                return name
            reader.value()
    return None


@contextlib.contextmanager
def _json_reader(path: Path, chunk: int) -> Iterator[JSONReader]:
    with open_text(path) as file:
        yield JSONReader(file, path, chunk)


@contextlib.contextmanager
def open_text(path: Path) -> Iterator[TextIO]:
    """Open a text file. Raise DataError that names it if it cannot be read."""
    files.require_file(path)
    try:
        with open(path, encoding="utf-8-sig") as file:
            yield file
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 text: {error}") from error


class JSONReader:
    """A reader of a JSON file, value by value, so that a large list need not fit in memory.

    Raise DataError, with file and place, for invalid JSON.
    """

    SPACE = re.compile(r"[ \t\r\n]*")
    MAX_WORD = 1 << 20  # characters: the longest string that may continue beyond what was read

    def __init__(self, file: TextIO, path: Path, chunk: int) -> None:
        self.file, self.path, self.chunk = file, path, chunk
        self.decoder = json.JSONDecoder()
        self.text, self.at = "", 0  # what was read, and how much of it is decoded
        self.base = 0  # where the text starts in the file, in characters

    def members(self, brackets: str) -> Iterator[str | None]:
        """Iterate over the next list or dict ("[", "{" or "[{"): yield keys or Nones; call `value()` after each."""
        opened = self._take(brackets)
        closing = "]" if opened == "[" else "}"
        while self._next_sign() != closing:
            key = None
            if opened == "{":
                key = self.value()
                self._take(":")
            yield key
            if self._next_sign() != closing:
                self._take(",")
        self.at += 1

    def value(self) -> Any:
        """Return the next value."""
        self._next_sign()
        while True:
            try:
                found, end = self.decoder.raw_decode(self.text, self.at)
            except json.JSONDecodeError as error:
                # Only a value at the end of the text can be completed by more text.
                if len(self.text) - error.pos > self.MAX_WORD or not self._read_more():
                    raise self._broken(error.pos, error.msg) from error
                if len(self.text) > MAX_VALUE:
                    raise self._broken(self.at, f"one value has more than {MAX_VALUE} characters") from error
                continue
            except RecursionError as error:
                raise self._broken(self.at, "nested too deep") from error
            except ValueError as error:
                raise self._broken(self.at, "a number of thousands of digits") from error
            if (end == len(self.text) or self.text[end] in ".eE+-") and self._read_more():  # a number may continue
                continue
            self.at = end
            return found

    def _take(self, signs: str) -> str:
        if (sign := self._next_sign()) not in signs:
            raise self._broken(self.at, f"expected one of {signs}")
        self.at += 1
        return sign

    def _next_sign(self) -> str:
        while True:
            self.at = self.SPACE.match(self.text, self.at).end()
            if self.at < len(self.text):
                return self.text[self.at]
            if not self._read_more():
                raise self._broken(self.at, "it ends here")

    def _read_more(self) -> bool:
        chunk = self.file.read(max(self.chunk, len(self.text) - self.at))  # twice as much each time
        self.text, self.at, self.base = self.text[self.at :] + chunk, 0, self.base + self.at
        return bool(chunk)

    def _broken(self, place: int, why: str) -> DataError:
        return DataError(f"{self.path}: truncated or invalid JSON at character {self.base + place}: {why}")
