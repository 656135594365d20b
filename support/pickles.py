"""Read pickles of numpy arrays and of pandas tables, without running code in them and without pandas.

    from egodistill.support import pickles

    columns = pickles.read_data_frame("HD_EPIC_Narrations.pkl")         # {name: array with one value per row}

A pickle names the functions that rebuild its content, and can name any function there is. The readers here refuse a
file that names a function other than those of arrays and tables. Even these are not called, because numpy's would take
addresses of objects from a file: functions of this module take their place. Objects of pandas are not rebuilt; only the
arguments and the state that the file records for each object are kept, and they contain the values.
"""

from __future__ import annotations

import codecs
import collections
import itertools
import math
import os
import pickle
import pickletools
from collections.abc import Mapping
from typing import IO, Any

import numpy as np

from . import files
from .errors import DataError, EgoDistillError

__all__ = ["ArrayUnpickler", "first_bytes", "is_pickle", "read_data_frame", "read_pickle"]

OPCODES = {opcode.code: opcode for opcode in pickletools.opcodes}
LARGEST_FRAME = 1 << 30  # bytes; HD-EPIC's narrations have tens of megabytes


def first_bytes(path: str | os.PathLike, count: int = 64) -> bytes:
    """Return the first bytes of a regular file, or none if it cannot be read, which its reader then reports.

    Args:
        path: The file.
        count: Number of bytes.
    """
    if not os.path.isfile(path):  # a pipe would wait for its writer
        return b""
    try:
        with open(path, "rb") as file:
            return file.read(count)
    except OSError:
        return b""


def is_pickle(path: str | os.PathLike) -> bool:
    """Return whether a file is a pickle of protocol 2 or later, by its first byte, with which no text begins.

    Args:
        path: The file.
    """
    return first_bytes(path, 1) == b"\x80"


def read_pickle(path: str | os.PathLike, unpickler: type[ArrayUnpickler], kind: str) -> Any:
    """Return the content of a pickle. Raise EgoDistillError if it cannot be read.

    Args:
        path: The file.
        unpickler: The reader, which decides what the file may refer to.
        kind: What the file should be, for errors.
    """
    try:
        with open(path, "rb") as file:
            _check_numbers(file)
            file.seek(0)
            return unpickler(file, encoding="latin1").load()
    except Exception as error:  # a damaged pickle can raise almost any error
        raise EgoDistillError(
            f"{path} cannot be read as {kind} ({type(error).__name__}: {str(error)[:200]})"
        ) from error


def _check_numbers(file: IO[bytes]) -> None:
    """Raise UnpicklingError for a memo index above the number of objects: pickle would allocate memory up to it."""
    for count in itertools.count():
        opcode = OPCODES.get(file.read(1).decode("latin1"))
        if opcode is None:
            raise pickle.UnpicklingError("it is damaged, or ends too early")
        if opcode.name == "STOP":
            return
        if opcode.name == "STRING":  # whose reader refuses what is not ASCII, as in arrays of Python 2
            file.readline()
            continue
        argument = opcode.arg.reader(file) if opcode.arg else None
        if opcode.name in ("PUT", "BINPUT", "LONG_BINPUT") and argument > count:
            raise pickle.UnpicklingError(f"it numbers an object {argument}, but has only {count}")


class Stub:
    """An object that a pickle asks for: the arguments that it is made from, and its state. It does nothing."""

    arguments: tuple[Any, ...]
    state: Any

    def __new__(cls, *arguments: Any) -> Stub:
        self = super().__new__(cls)
        self.arguments, self.state = arguments, None
        return self

    def __setstate__(self, state: Any) -> None:
        self.state = state


class DtypeStub(Stub):
    """A stand-in for a numpy.dtype, whose state in a file could declare bytes to be addresses of objects."""

    def plain(self) -> np.dtype:
        """Return the dtype, made from name and byte order alone. Raise UnpicklingError unless it has single values."""
        found = np.dtype(self.arguments[0])
        if found.kind not in "biufcSUO":
            raise pickle.UnpicklingError(f"it has an array of {found}, not of numbers, texts or objects")
        return found.newbyteorder(self.state[1] if self.state else "=")


class Array(np.ndarray):
    """An array that takes objects from a list only, never from bytes."""

    def __setstate__(self, state: tuple) -> None:
        version, shape, kind, fortran, content = state
        objects = isinstance(content, list)
        if (kind.plain().kind == "O") != objects or (objects and len(content) != math.prod(shape)):
            raise pickle.UnpicklingError(
                "the values of an array are not of its dtype, or not as many as its shape says"
            )
        super().__setstate__((version, shape, kind.plain(), fortran, content))


def _reconstruct(*_: Any) -> Array:
    """Return an empty array, as numpy's function of this name; its state follows."""
    return np.ndarray.__new__(Array, 0)


def _frombuffer(content: bytes, kind: DtypeStub, shape: tuple[int, ...], order: str) -> np.ndarray:
    return np.frombuffer(content, kind.plain()).reshape(shape, order=order)  # numpy refuses objects


def _scalar(kind: DtypeStub, content: bytes | str) -> Any:
    content = content.encode("latin1") if isinstance(content, str) else content
    return np.frombuffer(content, kind.plain())[0]


class ArrayUnpickler(pickle.Unpickler):
    """A pickle reader that makes numpy arrays, and calls only those functions in a file that are in `allowed`."""

    content = "a numpy array"
    allowed: Mapping[tuple[str, str], Any] = {
        ("collections", "OrderedDict"): collections.OrderedDict,
        ("_codecs", "encode"): codecs.encode,
        ("numpy", "dtype"): DtypeStub,
        ("numpy", "ndarray"): Stub,  # an argument of the next one; called, it would make objects of bytes
        ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
        ("numpy.core.multiarray", "scalar"): _scalar,
    }

    def find_class(self, module: str, name: str) -> Any:
        """Return what `allowed` has for this name. Raise UnpicklingError for a name that is not in it.

        Args:
            module: Module of the function.
            name: Its name.
        """
        found = self.allowed.get((module.replace("numpy._core", "numpy.core"), name))  # the name since numpy 2
        if found is None:
            raise pickle.UnpicklingError(f"it refers to {module}.{name}, which is not {self.content}")
        return found


class DataFrameStub(Stub):
    """A pandas.DataFrame."""


class FrameUnpickler(ArrayUnpickler):
    """A reader of pandas tables with columns of numbers, texts, lists and tuples."""

    content = "part of a plain pandas table"
    allowed = ArrayUnpickler.allowed | {
        ("builtins", "slice"): slice,
        ("numpy.core.numeric", "_frombuffer"): _frombuffer,
        ("pandas.core.frame", "DataFrame"): DataFrameStub,
        ("pandas.core.internals.managers", "BlockManager"): Stub,
        ("pandas._libs.internals", "_unpickle_block"): Stub,
        ("pandas.core.indexes.base", "_new_Index"): Stub,
        ("pandas.core.indexes.base", "Index"): Stub,
        ("pandas.core.indexes.range", "RangeIndex"): Stub,
        ("pandas.core.indexes.numeric", "Int64Index"): Stub,  # of pandas 1
    }


def read_data_frame(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """Return the columns of a pandas.DataFrame in a pickle, of pandas 1.3 to 2, as {name: array [rows]}.

    Values are as they were, of any type that the file may contain: numbers, texts, lists, tuples, None. Raise
    DataError that names the file, and what it refers to if that is not part of such a table; nothing of it is called.

    Args:
        path: The file.

    >>> import pickle
    >>> from pathlib import Path
    >>> from egodistill.support import pickles
    >>> size = Path("evil.pkl").write_bytes(pickle.dumps(print))
    >>> pickles.read_data_frame("evil.pkl")
    Traceback (most recent call last):
    ...
    egodistill.DataError: evil.pkl cannot be read as a pandas table (UnpicklingError: it refers to builtins.print, which
    is not part of a plain pandas table)
    """
    files.require_file(path, LARGEST_FRAME)
    try:
        frame = read_pickle(path, FrameUnpickler, "a pandas table")
    except EgoDistillError as error:
        raise DataError(str(error)) from error
    try:
        if not isinstance(frame, DataFrameStub):
            raise TypeError(f"its content is a {type(frame).__name__}")
        blocks, axes = frame.state["_mgr"].arguments
        names = [str(name) for name in axes[0].arguments[1]["data"]]
        columns: dict[str, np.ndarray] = {}
        for block in blocks:
            values, places, _ = block.arguments
            for place, column in zip(np.arange(len(names))[places], values, strict=True):
                columns[names[place]] = np.asarray(column)
        if set(columns) != set(names) or len({column.shape for column in columns.values()}) > 1:
            raise ValueError("its columns do not fit together")
        return {name: columns[name] for name in names}
    except Exception as error:  # a strange table can raise almost any error
        raise DataError(
            f"{path} cannot be read as a pandas table ({type(error).__name__}: {str(error)[:200]})"
        ) from error
