"""Read pickles of numpy arrays, as published weights are, without running code in them.

    from egodistill.support import pickles

    content = pickles.read_pickle("weights.pkl", pickles.ArrayUnpickler, "a Caffe2 file")

A pickle names the functions that rebuild its content, and can name any function there is. The reader here refuses a
file that names a function other than those of arrays. Even these are not called, because numpy's would take addresses
of objects from a file: functions of this module take their place.
"""

from __future__ import annotations

import collections
import math
import os
import pickle
from collections.abc import Mapping
from typing import Any

import numpy as np

from .errors import EgoDistillError

__all__ = ["ArrayUnpickler", "first_bytes", "read_pickle"]


def first_bytes(path: str | os.PathLike, count: int = 64) -> bytes:
    """Return the first bytes of a regular file, or none if it cannot be read, which its reader then reports."""
    if not os.path.isfile(path):  # a pipe would wait for its writer
        return b""
    try:
        with open(path, "rb") as file:
            return file.read(count)
    except OSError:
        return b""


def read_pickle(path: str | os.PathLike, unpickler: type[ArrayUnpickler], kind: str) -> Any:
    """Return the content of a pickle. Raise EgoDistillError, which says the kind of file, if it cannot be read.

    The unpickler decides what the file may refer to.
    """
    try:
        with open(path, "rb") as file:
            return unpickler(file, encoding="latin1").load()
    except Exception as error:  # a damaged pickle can raise almost any error
        raise EgoDistillError(
            f"{path} cannot be read as {kind} ({type(error).__name__}: {str(error)[:200]})"
        ) from error


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


def _encode(text: str, encoding: str) -> bytes:
    """Return the bytes that Python 3 writes as a text for Python 2."""
    if encoding not in ("latin1", "latin-1"):
        raise pickle.UnpicklingError(f"it encodes a text as {encoding}")
    return text.encode("latin1")


def _scalar(kind: DtypeStub, content: bytes | str) -> Any:
    content = content.encode("latin1") if isinstance(content, str) else content
    return np.frombuffer(content, kind.plain())[0]


class ArrayUnpickler(pickle.Unpickler):
    """A pickle reader that makes numpy arrays, and calls only those functions in a file that are in `allowed`."""

    content = "a numpy array"
    allowed: Mapping[tuple[str, str], Any] = {
        ("collections", "OrderedDict"): collections.OrderedDict,
        ("_codecs", "encode"): _encode,
        ("numpy", "dtype"): DtypeStub,
        ("numpy", "ndarray"): Stub,  # an argument of the next one; called, it would make objects of bytes
        ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
        ("numpy.core.multiarray", "scalar"): _scalar,
    }

    def find_class(self, module: str, name: str) -> Any:
        """Return what `allowed` has for this name. Raise UnpicklingError for a name that is not in it."""
        found = self.allowed.get((module.replace("numpy._core", "numpy.core"), name))  # the name since numpy 2
        if found is None:
            raise pickle.UnpicklingError(f"it refers to {module}.{name}, which is not {self.content}")
        return found
