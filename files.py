"""Files that are written whole, a lock between processes, progress on stderr, and reading ahead.

    from egodistill import files

    with files.atomic_write("results.csv") as part:         # results.csv appears when the block ends without an error
        part.write_text("a,b\\n")
    with files.lock("store/store.lock"):                    # one process at a time
        ...
    with files.Progress("extract", total=1000, unit="clips") as bar:
        for batch, waited in files.read_ahead(parts, read):  # the next part is read during work on this one
            bar.step(len(batch))

The standard library only: worker processes and `egodistill --help` start with it.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from egodistill import DataError, EgoDistillOSError

try:
    import fcntl
except ModuleNotFoundError:
    fcntl = None
try:
    import msvcrt  # Windows
except ModuleNotFoundError:
    msvcrt = None

__all__ = [
    "Progress",
    "append_line",
    "atomic_write",
    "available_cores",
    "check_share",
    "differences",
    "disk_errors",
    "environment_share",
    "free_megabytes",
    "is_system_file",
    "lock",
    "read_ahead",
    "read_json",
    "read_lines",
    "remove_parts",
    "replace_file",
    "require_same_run",
    "write_json",
]

Item = TypeVar("Item")
Result = TypeVar("Result")


# ---------------------------------------------------------------------------------------------------------------
# Writing and reading


@contextlib.contextmanager
def atomic_write(path: str | os.PathLike) -> Iterator[Path]:
    """Yield a temporary path in the folder of `path`; rename it to `path` at the end, or remove it after an error.

    The folder is made if it does not exist. Raise EgoDistillOSError, with the space that is left, if the system cannot
    write. A file that was there before stays as it was.
    """
    path = Path(path)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield part
            replace_file(part, path)
        finally:
            with contextlib.suppress(OSError):
                part.unlink(missing_ok=True)


def remove_parts(path: str | os.PathLike) -> None:
    """Remove what killed processes left of `path` in `atomic_write()`. No other process may be writing it."""
    path = Path(path)
    for part in path.parent.glob(f".{path.name}.*.part"):
        part.unlink(missing_ok=True)


def replace_file(source: Path, target: Path) -> None:
    """Rename a file to `target`. Windows refuses this while another process reads `target`, so try for a second."""
    for _ in range(20):
        with contextlib.suppress(PermissionError):
            os.replace(source, target)
            return
        time.sleep(0.05)
    os.replace(source, target)


@contextlib.contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn an error about writing `path` into EgoDistillOSError that names the file and the free space."""
    try:
        yield
    except OSError as error:
        if error.errno is None:
            raise  # EgoDistillOSError, or another error that did not come from the system
        about = path if error.filename is None else Path(os.fsdecode(error.filename))
        if about != path and about not in path.parents and not about.name.startswith(f".{path.name}."):
            raise  # about another file, which the caller read meanwhile
        raise EgoDistillOSError(
            f"{path}: cannot be written: {error.strerror or error}; {free_megabytes(path):.1f} MB are free there. What "
            f"was there before is unchanged; the same call continues from it"
        ) from error


def free_megabytes(path: str | os.PathLike) -> float:
    """Return the free space, in MB, where `path` is or would be."""
    folder = next(folder for folder in (Path(path).absolute(), *Path(path).absolute().parents) if folder.is_dir())
    return shutil.disk_usage(folder).free / 1e6


def write_json(path: str | os.PathLike, value: Any) -> None:
    """Write a JSON file atomically; a list gets one line per item."""
    if isinstance(value, list):
        text = "[\n" + ",\n".join(json.dumps(item) for item in value) + "\n]\n"
    else:
        text = json.dumps(value, indent=1, ensure_ascii=False) + "\n"
    with atomic_write(path) as part:
        part.write_text(text, encoding="utf-8")


def read_json(path: str | os.PathLike) -> Any:
    """Return the content of a JSON file. Raise DataError, with the file's name, if there is none or it is damaged."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise DataError(f"{path}: is damaged: {error}") from error


def append_line(path: Path, content: Mapping[str, Any]) -> None:
    """Add one JSON line to a file that several processes extend. An incomplete last line is ended first."""
    text = json.dumps(content).encode() + b"\n"
    with disk_errors(path), open(path, "ab+") as file:
        if file.tell():
            file.seek(-1, os.SEEK_END)
            if file.read(1) != b"\n":
                text = b"\n" + text
        file.write(text)


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the complete lines of a file that `append_line()` wrote; a full disk leaves incomplete ones."""
    if path.exists():
        with open(path, encoding="utf-8") as file:
            for line in file:
                with contextlib.suppress(ValueError):
                    yield json.loads(line)


def is_system_file(name: str) -> bool:
    """Return whether a desktop leaves files of this name in the folders that it shows."""
    return name.lower() in (".ds_store", ".localized", ".directory", "thumbs.db", "ehthumbs.db", "desktop.ini")


# ---------------------------------------------------------------------------------------------------------------
# Several processes


@contextlib.contextmanager
def lock(path: str | os.PathLike) -> Iterator[None]:
    """Hold the lock on a file, which is made if it does not exist. The system releases it if this process dies."""
    with open(path, "a", encoding="utf-8") as file:
        if fcntl is not None:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield
        elif msvcrt is not None:
            while True:
                with contextlib.suppress(PermissionError):  # another process has it
                    file.seek(0)
                    msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
                    break
                time.sleep(0.01)
            try:
                yield
            finally:
                file.seek(0)
                msvcrt.locking(file.fileno(), msvcrt.LK_UNLCK, 1)
        else:
            raise DataError(f"{path}: cannot be locked: this Python has neither fcntl nor msvcrt")


def available_cores() -> int:
    """Return how many processors this process may use: a container or a scheduler may have given it few."""
    if hasattr(os, "process_cpu_count"):  # Python 3.13
        return os.process_cpu_count() or 1
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def environment_share() -> dict[str, int]:
    """Return the share of a job that RANK and WORLD_SIZE name, as arguments `rank` and `world_size`; else the whole.

    For commands whose processes need not know each other. Functions take a share only where a caller asks for one.
    """
    given = {name: os.environ.get(name, default) for name, default in (("RANK", "0"), ("WORLD_SIZE", "1"))}
    try:
        return {name.lower(): int(text) for name, text in given.items()}
    except ValueError as error:
        told = " and ".join(f"{name}={text!r}" for name, text in given.items())
        raise DataError(f"{told} in the environment are not two whole numbers") from error


def check_share(rank: int, world_size: int) -> None:
    """Raise DataError if a process's number is not one of those that share a job."""
    if not 0 <= rank < world_size:
        raise DataError(f"rank {rank} is not one of the {world_size} of world_size")


# ---------------------------------------------------------------------------------------------------------------
# Is this the same run?


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Return the settings in which two runs differ: {name: (before, now)}, nested ones as "outer.inner".

    Values are compared as JSON holds them.
    """
    before, now = (flatten(json.loads(json.dumps(dict(one)))) for one in (before, now))
    names = [*now, *(name for name in before if name not in now)]
    return {name: (before.get(name), now.get(name)) for name in names if before.get(name) != now.get(name)}


def flatten(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested settings as one dict with dotted names."""
    found = {}
    for name, value in settings.items():
        inner = isinstance(value, dict) and value
        found |= flatten(value, f"{prefix}{name}.") if inner else {f"{prefix}{name}": value}
    return found


def require_same_run(source: Any, before: Mapping[str, Any], now: Mapping[str, Any], advice: str) -> None:
    """Raise DataError if a run that was begun, described by `before`, is not the one described by `now`.

    The message begins with `source`, names each setting that differs with both values, and ends with `advice`.
    """
    if different := differences(before, now):
        told = [f"{name} was {shorten(old)} and is now {shorten(new)}" for name, (old, new) in different.items()]
        told = "; ".join(told[:5]) + (f"; and {len(told) - 5} more" if len(told) > 5 else "")
        raise DataError(f"{source}: was begun with other settings: {told}. {advice}")


def shorten(value: Any, length: int = 200) -> str:
    text = repr(value)
    return text if len(text) <= length else f"{text[: length - 4]} ..."


# ---------------------------------------------------------------------------------------------------------------
# Reading ahead, and progress


def read_ahead(
    items: Iterable[Item], read: Callable[[Item], Result], begin: Callable[[], None] | None = None
) -> Iterator[tuple[Result, float]]:
    """Yield `read(item)` for each item, and the seconds waited for it; a thread reads the next one in the meantime.

    `begin` runs in that thread at its start. An error of `read()` is raised in the place of its item.
    """
    items = iter(items)
    with ThreadPoolExecutor(1, initializer=begin) as pool:
        coming = [pool.submit(read, item) for item in [next(items, None)] if item is not None]
        while coming:
            began = time.monotonic()
            result = coming.pop().result()
            waited = time.monotonic() - began
            following = next(items, None)
            if following is not None:
                coming.append(pool.submit(read, following))
            yield result, waited


class Progress:
    """Progress of a long step on stderr: how much is done, how fast, how long it still takes.

    A terminal shows one line that is drawn again and again, a log file gets one line per minute and a last one.
    """

    def __init__(self, title: str, total: int, *, unit: str = "clips", done: int = 0, show: bool = True) -> None:
        self.title, self.total, self.unit = title, total, unit
        self.done = self.first = done
        self.began = self.drawn = time.monotonic()
        self.note = ""
        self.show = show and sys.stderr is not None  # Under pythonw on Windows there is none.
        self.terminal = self.show and sys.stderr.isatty()

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def step(self, count: int = 1, note: str = "") -> None:
        """Count `count` more as done; `note` is shown behind them."""
        self.update(self.done + count, note)

    def update(self, done: int, note: str = "") -> None:
        """Set how many are done."""
        self.done, self.note = done, note
        if time.monotonic() - self.drawn > (0.2 if self.terminal else 60):
            self.draw("" if self.terminal else "\n")

    def close(self) -> None:
        """Draw the last state and end the line."""
        self.draw("\n")
        self.show = False

    def draw(self, end: str) -> None:
        self.drawn = time.monotonic()
        if not self.show:
            return
        speed = (self.done - self.first) / max(self.drawn - self.began, 1e-9)
        left = f"{(self.total - self.done) / speed:.0f}" if speed else "?"
        line = f"{self.title}: {self.done}/{self.total} {self.unit}, {speed:.1f} {self.unit}/s, {left} s left"
        line += f", {self.note}" if self.note else ""
        # Spaces cover a longer line from before.
        print(f"\r{line:<99}" if self.terminal else line, end=end, file=sys.stderr, flush=True)
