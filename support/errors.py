"""The library's exceptions.

    from egodistill import DataError, EgoDistillError, EgoDistillOSError

The door hands the exceptions on, and tracebacks name them as it does. Modules that can be copied alone raise plain
ValueErrors and OSErrors instead.
"""

import difflib
import os
from collections.abc import Iterable

__all__ = [
    "DataError",
    "EgoDistillError",
    "EgoDistillOSError",
    "NoteWarning",
    "describe_error",
    "did_you_mean",
    "named",
]


class EgoDistillError(ValueError):
    """An argument or input does not fit; the message says what is wrong, where, and what would fit.

    Most modules raise it, or a subclass.

    >>> import egodistill
    >>> model = egodistill.EgoDistill.load("student.safetensors")
    >>> egodistill.measure(model, batch_size=0)
    Traceback (most recent call last):
    ...
    egodistill.EgoDistillError: batch_size=0 (--batch-size 0) and repeats=10 (--repeats 10) must be at least 1
    """

    __module__ = "egodistill"


class DataError(EgoDistillError):
    """A file, annotations or a store cannot be used, or a folder contains the results of another run."""

    __module__ = "egodistill"


class EgoDistillOSError(EgoDistillError, OSError):
    """A problem outside the library: a file is missing or unwritable, or a training process has died."""

    __module__ = "egodistill"


class NoteWarning(UserWarning):
    """A warning that commands print as a line."""


def describe_error(error: BaseException) -> str:
    """Return what an error says, as FILE: REASON for one of the operating system, without its number.

    >>> from egodistill.support.errors import describe_error
    >>> describe_error(FileNotFoundError(2, "No such file or directory", "walk.mp4"))
    'walk.mp4: No such file or directory'
    """
    if not isinstance(error, OSError) or not error.strerror:
        return str(error)
    return error.strerror if error.filename is None else f"{os.fsdecode(error.filename)}: {error.strerror}"


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return a question for the most similar of the known words, to end a message with; "" if none is similar.

    >>> from egodistill.support.errors import did_you_mean
    >>> did_you_mean("distil", ["predict", "distill"]), did_you_mean("x", ["predict"])
    ('. Did you mean distill?', '')
    """
    names = {name.strip("-"): name for name in known}  # of options the dashes are alike
    close = difflib.get_close_matches(word.strip("-"), names, 1)
    return f". Did you mean {names[close[0]]}?" if close else ""


def named(argument: str, *value: object, option: str = "") -> str:
    """Return an argument, perhaps with a value, and its option, or a function and its command: an error says both.

    `option` is the option or the command if it has another name.

    >>> from egodistill.support.errors import named
    >>> named("max_gap"), named("split_by", "stretch"), named("seed", option="--split-seed")
    ('max_gap (--max-gap)', "split_by='stretch' (--split-by stretch)", 'seed (--split-seed)')
    """
    if argument.endswith("()"):
        option = option or f"`egodistill {argument[:-2].rpartition('.')[2]}`"
    rule = " ".join(["--" + argument.replace("_", "-").replace("=", " "), *(str(v) for v in value if v is not True)])
    return f"{'='.join([argument, *map(repr, value)])} ({option or rule})"
