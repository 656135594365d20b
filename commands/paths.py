"""The paths of a command: what it reads, what it writes, what lies beside that, and the one check before the work.

    parser.add_argument("store", type=STORE)
    parser.add_argument("--out", type=Writes((".json",), (rb'\\A\\{"format": "mine',)))

An option says the role of its words where it is defined: its `type=` is a `Reads` or a `Writes`. `cli` notes the roles
in the arguments, and calls `check_paths()` before each command. This module needs the standard library only.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from ..support import files
from ..support.custom import is_name
from ..support.errors import DataError, EgoDistillOSError
from ..support.names import identity, real_path

__all__ = [
    "ANY",
    "DOCUMENT",
    "FILE",
    "FOLDER",
    "CUSTOM",
    "PAGE",
    "PUBLISHED",
    "STORE",
    "STUDENT",
    "TEACHER_MODEL",
    "TRAINING",
    "Made",
    "Reads",
    "Writes",
    "check_paths",
    "page_about",
]

TRAINING = ("finetune", "pretrain", "distill")
PAGE = r"\A<!DOCTYPE html>\n<!-- egodistill {} -->"  # the pattern of a page that a command has written
ANY = (b"",)  # each file matches this pattern: the command itself decides what to do with it


def itself(word: str) -> Iterable[str]:
    """Return the word as the only file that it stands for."""
    return (word,)


@dataclass(frozen=True)
class Reads:
    """The role of a word that names what a command reads."""

    what: str = "file"  # for the message of one that does not exist
    words: tuple[str, ...] = ()  # no paths, such as "imagenet"
    remark: str | Callable[[str], str] = ""  # what else the option takes, for that message; or what makes it of a word
    files: Callable[[str], Iterable[str]] = itself  # returns the files that a word stands for; none: it is no path
    convert: Callable[[str], Any] = str  # makes the option's value of a word; the last part of a pair is the path

    def __call__(self, text: str) -> Any:
        return self.convert(text)

    def found(self, word: str, name: str) -> Iterator[str]:
        """Yield the files of a word. Raise EgoDistillOSError for one that is missing, or that the user may not read."""
        for path in () if word.lower() in self.words else self.files(word):
            try:
                os.stat(path)
            except (FileNotFoundError, NotADirectoryError) as error:
                takes = f"; {name} takes a file, {self.remark}" if self.remark else ""
                more = self.remark(word) if callable(self.remark) else takes
                raise EgoDistillOSError(f"{path or f'{name} has an empty name'}: no such {self.what}{more}") from error
            except (OSError, ValueError):
                continue  # its reader says what is wrong
            if not os.access(path, os.R_OK):
                way_out = "give yourself the right to read it (`chmod u+r`)"
                raise EgoDistillOSError(f"{path}: cannot be read: Permission denied; {way_out}")
            yield path


class Made(NamedTuple):
    """A file that a command writes, and patterns of an earlier one or another `rule` than `files.check_output()`."""

    path: str | os.PathLike
    ours: Sequence[bytes] | None = ()
    rule: Callable[[], object] | None = None


def nothing(path: str, a: argparse.Namespace) -> Iterable[Made]:
    """Return no files."""
    return ()


@dataclass(frozen=True)
class Writes:
    """The role of a word that names what a command writes."""

    suffixes: tuple[str, ...] = ()  # how the name may end; none: in any way, as that of a pipe or device
    ours: Sequence[bytes] | None = ()  # patterns of an earlier result, as in `files.check_output()`
    beside: Callable[[str, argparse.Namespace], Iterable[Made]] = nothing  # returns what else is written
    wrong: str = "the name of what {name} writes must end in {ends}"  # for a name that ends in another way
    folder: bool = False  # whether it is one; `beside` has the files in it that may be someone else's
    itself: bool = True  # whether this very name is written, or only what `beside` returns
    stream: bool = True  # whether it may be a pipe or a device, whatever its name

    def __call__(self, text: str) -> str:
        return text

    def made(self, path: str, a: argparse.Namespace, name: str) -> Iterator[Made]:
        """Yield what is written. Raise DataError for a name that must end in another way."""
        if not path:
            raise DataError(f"{name} has an empty name; give another path")
        if self.itself:
            yield Made(path, self.ours, partial(require_folder, path, a.command) if self.folder else None)
        yield from self.beside(path, a)
        streams = self.stream and files.is_stream(Path(path))
        if self.suffixes and Path(path).suffix.lower() not in self.suffixes and not streams:
            ends = " or ".join(self.suffixes)
            raise DataError(f"{path}: {self.wrong.format(name=name, command=a.command, ends=ends)}")


def require_folder(path: str, command: str) -> None:
    """Raise DataError if a command is to write into a file."""
    if Path(path).is_file():
        raise DataError(f"{path}: this is a file, but {command} writes a folder; give another name")


def custom_source(word: str) -> list[str]:
    """Return the file in FILE.py:NAME; none of a module's or of another name."""
    source = word.rpartition(":")[0]
    return [source] if is_name(word) and source.endswith(".py") else []


def of_pair(word: str) -> str:
    """Return the end of the message for a pair where a student is wanted."""
    told = "; it is a pair of `export --pair`, which `live` runs; give the student's own file (.safetensors)"
    return told if word and files.pair_files(word)[0].exists() else ""


def page_about(source: str | os.PathLike) -> Path:
    """Return the page of `report`: in a folder of `train`, or beside a model or evaluation, SOURCE.html."""
    return Path(source, "report.html") if Path(source).is_dir() else Path(f"{source}.html")


FILE, CUSTOM = Reads(), Reads(files=custom_source)
STORE = Reads("folder; give a clip store, which `egodistill prepare` writes")
STUDENT = Reads(files=lambda word: [files.shipped(word)], remark=of_pair)
TEACHER_MODEL = Reads(
    files=lambda word: custom_source(word) if is_name(word) else [word], remark="as `egodistill finetune` writes it"
)
PUBLISHED = Reads(words=("torchvision",), remark="or torchvision")
FOLDER = Writes(folder=True)
NO_DOCUMENT = "{name} writes into a Markdown document; its name must end in {ends}"
DOCUMENT = Writes((".md",), ANY, wrong=NO_DOCUMENT, stream=False)


def words_of(a: argparse.Namespace, kind: type) -> Iterator[tuple[str, Any, str]]:
    """Yield (name of the option, its role, word) for each word with a role of this kind."""
    for name, place, role in a.roles:
        given = getattr(a, place, None) if isinstance(role, kind) else None
        for value in given if isinstance(given, list) else [given]:
            word = value[-1] if isinstance(value, tuple) else value
            if isinstance(word, str):
                yield name, role, word


def check_paths(a: argparse.Namespace, more: Iterable[str | os.PathLike] = ()) -> None:
    """Raise an error if an input cannot be read, or if a command would write over what it must not replace.

    That is an input, another of its outputs, and what is no earlier result; see `files.check_output()`. `more` inputs
    are those that are only known when a folder or table was read.
    """
    inputs = [path for name, role, word in words_of(a, Reads) for path in role.found(word, name)]
    inputs += map(os.fspath, more)
    written: dict[Hashable, str] = {}
    for name, role, word in words_of(a, Writes):
        for path, ours, rule in role.made(word, a, name):
            if (this := identity(real_path(path))) in written and not files.is_stream(Path(path)):
                raise DataError(f"{path}: also an output of this command ({written[this]}); give another path")
            written[this] = name
            files.require_writable(path)
            files.require_apart(path, inputs)
            if rule is None:
                files.check_output(path, inputs, ours=ours, overwrite=getattr(a, "overwrite", False))
            else:
                rule()
