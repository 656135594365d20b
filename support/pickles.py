"""Read pickles of numpy arrays, as published weights are, without running code in them.

    from egodistill.support import pickles

    content = pickles.read_pickle("weights.pkl", pickles.ArrayUnpickler, "a Caffe2 file")

A pickle names the functions that rebuild its content, and can name any function there is. The reader here refuses a
file that names a function other than those of arrays. Even these are not called, because numpy's would take addresses
of objects from a file: functions of this module take their place. Before anything is made, `check_pickle()` counts what
the file contains: a few bytes may stand for more than any memory holds.
"""

from __future__ import annotations

import collections
import math
import os
import pickle
import pickletools
from collections.abc import Mapping
from typing import IO, Any

import numpy as np

from .errors import EgoDistillError

__all__ = ["ArrayUnpickler", "check_pickle", "first_bytes", "read_pickle"]

CHANGING = ("APPEND", "APPENDS", "SETITEM", "SETITEMS", "ADDITEMS", "BUILD")  # of the object below their items
OPCODES = {opcode.code: opcode for opcode in pickletools.opcodes}
SPARE_WORK, WORK_PER_BYTE = 1 << 20, 100  # see `check_pickle()`; tables and weights need up to 10 per byte
TORCH_MAGIC = 0x1950A86A20F9469CFC6C  # the first value of a file in torch's format before 1.6


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
            check_pickle(file)
            file.seek(0)
            return unpickler(file, encoding="latin1").load()
    except Exception as error:  # a damaged pickle can raise almost any error
        raise EgoDistillError(
            f"{path} cannot be read as {kind} ({type(error).__name__}: {str(error)[:200]})"
        ) from error


def check_pickle(file: IO[bytes]) -> None:
    """Read a pickle, from its start to its end, without making anything of it.

    An object that is used twice is in the file once, so that objects inside each other can stand for 2^40 of them: as
    much is done when they are hashed or printed, copied or compared. Each object counts as those that it consists of.
    Raise pickle.UnpicklingError if it is damaged, or what it contains is much more than the file itself.

    >>> import io
    >>> import pickle
    >>> from egodistill.support import pickles
    >>> key = ()
    >>> for _ in range(40):
    ...     key = (key, key)
    >>> pickles.check_pickle(io.BytesIO(pickle.dumps({"a": key})))
    Traceback (most recent call last):
    ...
    _pickle.UnpicklingError: its ... bytes stand for over a million objects
    """
    count = _Count()
    start = file.tell()
    allowed = SPARE_WORK
    while True:
        opcode = OPCODES.get(file.read(1).decode("latin1"))
        if opcode is None:
            raise pickle.UnpicklingError("it is damaged, or ends too early")
        if opcode.name == "STOP":
            return
        argument = None
        if opcode.name == "STRING":  # whose reader refuses what is not ASCII, as in arrays of Python 2
            argument = file.readline()
        elif opcode.arg:
            argument = opcode.arg.reader(file)
        if isinstance(argument, int) and not -(1 << 63) <= argument < 1 << 64 and argument != TORCH_MAGIC:
            raise pickle.UnpicklingError("it has an integer of more than 8 bytes")  # thousands can have one hash
        try:
            count.step(opcode, argument)
        except (AttributeError, IndexError, KeyError) as error:
            raise pickle.UnpicklingError("it is damaged: it refers to objects that it does not have") from error
        if count.work > allowed:
            length = file.tell() - start
            allowed = SPARE_WORK + WORK_PER_BYTE * length
            if count.work > allowed:
                raise pickle.UnpicklingError(f"its {length} bytes stand for over a million objects")


class _Part:
    """An object of a pickle: how many it consists of, whether another one holds it, whether it was encoded."""

    __slots__ = ("encoded", "held", "size")

    def __init__(self, size: int, encoded: bool = False) -> None:
        self.size, self.held, self.encoded = size, False, encoded


class _Count:
    """The objects on the stack of a pickle machine, and in its memo; `work` is the size of all that were put together.

    Only `GLOBAL` names the function that torch's reader would call.
    """

    ENCODE = _Part(1)

    def __init__(self) -> None:
        self.stack: list[_Part | None] = []  # None: a mark
        self.memo: dict[int, _Part] = {}
        self.work = self.steps = 0

    def step(self, opcode: pickletools.OpcodeInfo, argument: Any) -> None:
        """Do what an opcode does. Raise IndexError or KeyError for a damaged pickle."""
        name, stack = opcode.name, self.stack
        if name in ("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"):
            place = len(self.memo) if argument is None else argument
            if place > self.steps:  # pickle would allocate memory up to it
                raise pickle.UnpicklingError(f"it numbers an object {place}, but has only {self.steps}")
            self.memo[place] = stack[-1]
        elif name in ("GET", "BINGET", "LONG_BINGET"):
            stack.append(self.memo[argument])
        elif name == "MARK":
            stack.append(None)
        elif name == "DUP":
            stack.append(stack[-1])
        elif name == "POP":
            stack.pop()
        elif opcode.stack_before:
            self.combine(opcode)
        elif opcode.stack_after:
            is_encode = name == "GLOBAL" and argument == "_codecs encode"
            size = 1 + len(argument) // 16 if isinstance(argument, (str, bytes, bytearray)) else 1
            stack.append(self.ENCODE if is_encode else _Part(size))
        self.steps += 1

    def combine(self, opcode: pickletools.OpcodeInfo) -> None:
        """Take objects from the stack, and put what is made of them, or the one that is changed, in their place."""
        stack, wanted, parts = self.stack, len(opcode.stack_before), []
        if pickletools.stackslice in opcode.stack_before or opcode.name == "POP_MARK":
            while (part := stack.pop()) is not None:
                parts.append(part)
            wanted = opcode.stack_before.index(pickletools.markobject)
        parts += [stack.pop() for _ in range(wanted)]
        if not opcode.stack_after:
            return
        changed = parts.pop() if opcode.name in CHANGING else None
        size, encoded = 1, False
        for part in parts:
            part.held = True
            size += part.size
            encoded |= part.encoded
        self.work += size
        if changed is None:
            if self.ENCODE in parts:
                if encoded:  # each time, the text may become ten times as long
                    raise pickle.UnpicklingError("it encodes a text several times")
                encoded = True
            changed = _Part(size, encoded)
        elif changed.held:  # so that the size of its holder is known
            raise pickle.UnpicklingError("it changes an object that is already part of another one")
        else:
            changed.size, changed.encoded = changed.size + size, changed.encoded or encoded
        stack.append(changed)


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
