"""Classes and functions of a user's own code, by name: `package.module:Name` or `file.py:Name`.

    encoder = custom.resolve("my_parts.py:Spectrum")

Only what a user has typed is imported; a name that stands in a model file never is.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import os
import sys
import traceback
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from .errors import EgoDistillError, EgoDistillOSError, did_you_mean

__all__ = ["import_again", "imported", "is_name", "name_of", "place", "resolve"]

FILES: dict[str, str] = {}  # {module: file} of those that were imported


def is_name(text: str | os.PathLike[str]) -> bool:
    """Return whether a text has the form of a name, such as parts.py:Spectrum; a path of Windows has not."""
    source, _, wanted = os.fspath(text).rpartition(":")
    return bool(source) and all(part.isidentifier() for part in wanted.split("."))


def resolve(name: str) -> Any:
    """Return the class or function named "package.module:Name" or "folder/file.py:Name"; its module is imported.

    Raise EgoDistillOSError if the file does not exist, and EgoDistillError if the module cannot be imported, or has
    nothing of this name.
    """
    source, _, wanted = name.rpartition(":")
    if not is_name(name):
        raise EgoDistillError(f"{name}: give FILE.py:NAME or PACKAGE.MODULE:NAME")
    if source.endswith(".py") and not Path(source).is_file():
        raise EgoDistillOSError(f"{source}: no such file")
    try:
        module = import_file(Path(source)) if source.endswith(".py") else importlib.import_module(source)
    except Exception as error:  # code of one's own can raise any error
        place = traceback.extract_tb(error.__traceback__)[-1]
        where = f"line {place.lineno}, " if Path(place.filename).name == Path(source).name else ""
        raise EgoDistillError(f"{source}: cannot be imported ({where}{type(error).__name__}: {error})") from error
    found: Any = module
    for part in wanted.split("."):
        if not hasattr(found, part):
            raise EgoDistillError(f"{source}: has no {wanted}{did_you_mean(part, dir(found))}")
        found = getattr(found, part)
    return found


def import_file(path: Path, name: str = "") -> ModuleType:
    """Return the module in a file, which is imported once, by a name or the file's; it can import its neighbours."""
    path = path.resolve()
    taken = sys.modules.get(path.stem)
    alone = path.stem not in sys.stdlib_module_names if taken is None else getattr(taken, "__file__", None) == str(path)
    name = name or (path.stem if alone else f"own_{path.stem}")
    if name in sys.modules and sys.modules[name].__file__ == str(path):
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    sys.path.append(str(path.parent))
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    FILES[name] = str(path)
    return module


def name_of(part: Any) -> str:
    """Return the name with which another process can `resolve()` a class or function, after `import_again()`.

    Raise EgoDistillError if there is none: it is in a notebook or script, or inside of another function.
    """
    home, name = getattr(part, "__module__", None), getattr(part, "__qualname__", type(part).__name__)
    with contextlib.suppress(EgoDistillError):
        if home != "__main__" and resolve(f"{home}:{name}") is part:
            return f"{home}:{name}"
    raise EgoDistillError(
        f"{name}: other processes cannot import it from {home}; put it into a file and import that, or, without a "
        f"consumer, give workers=1"
    )


def imported() -> dict[str, str]:
    """Return {module: file} of the files that were imported, for `import_again()` in another process."""
    return dict(FILES)


def place(error: BaseException, *, last: bool = False) -> str:
    """Return where in an imported file an error was raised, such as "parts.py, line 8, in forward"; "" for elsewhere.

    With `last`, only if that file itself raised it, and not what it called.
    """
    calls = traceback.extract_tb(error.__traceback__)
    places = [one for one in calls[-1 if last else 0 :] if one.filename in FILES.values()]
    return f"{Path(places[-1].filename).name}, line {places[-1].lineno}, in {places[-1].name}" if places else ""


def import_again(files: Mapping[str, str]) -> None:
    """Import the files of another process, in its order, so that its objects can be unpickled here."""
    for name, path in files.items():
        import_file(Path(path), name)
