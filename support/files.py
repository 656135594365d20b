"""Atomic writes, JSON files, a lock between processes, progress on stderr, and reading ahead.

    from egodistill.support import files

    with files.atomic_write("results.csv") as part:         # results.csv appears only if the block succeeds
        part.write_text("a,b\\n")
    with files.lock("store/store.lock"):                    # one process at a time
        ...
    with files.Progress("extract", total=1000, unit="clips") as bar:
        for batch, waited in files.read_ahead(parts, read):  # reads the next part while the block uses this one
            bar.step(len(batch))

This module needs only the standard library, because worker processes and `egodistill --help` import it.
"""

from __future__ import annotations

import contextlib
import errno
import glob
import json
import math
import os
import re
import shutil
import stat
import sys
import tempfile
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, Any, TypeVar

from . import holders
from .errors import DataError, EgoDistillOSError, named
from .names import is_same, real_path

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
    "check_output",
    "check_share",
    "clock",
    "description_of",
    "differences",
    "disk_errors",
    "environment_share",
    "free_megabytes",
    "is_system_file",
    "list_differences",
    "log_path",
    "lock",
    "output_lock",
    "unshare_file",
    "pair_files",
    "read_ahead",
    "read_json",
    "read_lines",
    "remove_stale_part",
    "remove_parts",
    "replace_file",
    "require_apart",
    "require_file",
    "require_log",
    "require_same_run",
    "require_writable",
    "shipped",
    "signature",
    "training_file",
    "work_lock",
    "write_json",
]

# Errors of a file system without locks, such as NFS without lockd or Lustre without the mount option flock.
NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP}
MODEL_SUFFIX = ".safetensors"  # of students and teachers
PAIR = ("-accl.csv", "-gyro.csv")  # of the IMU beside a video
EXPORTED_PAIR = ("frame", "motion")  # the parts of a student in two exported files
PREDICTED = "start,stop,class_1,"  # the start of a table that `predict` wrote
NEON = ("imu.csv", "world_timestamps.csv")  # in the folder of each recording of a Pupil Labs Neon
STUDENTS = Path(real_path(__file__)).parent.parent / "students"  # that come with the library
MAX_JSON = 1 << 30  # bytes; the clips of a store with a million take 0.4 GB

KEPT = {  # after an error of writing; whether the same call continues
    True: "Existing files are unchanged; make room or give another path, and repeat the call",
    False: "The lines before it are kept; the same call begins anew",
}

Item = TypeVar("Item")
Result = TypeVar("Result")


# ---------------------------------------------------------------------------------------------------------------
# Writing and reading


@contextlib.contextmanager
def atomic_write(path: str | os.PathLike, *, through_link: bool = True) -> Iterator[Path]:
    """Yield a temporary path beside `path`; rename it to `path` at the end, or remove it after an error.

    A missing folder is created. After an error, an existing file is unchanged. Raise EgoDistillOSError, with the free
    space, if the system cannot write. A pipe or device is written to at the end. A symbolic link stays, and the file
    that it leads to is replaced; without `through_link`, the new file takes its place, as in a clip store, which writes
    nowhere else.

    >>> from pathlib import Path
    >>> from egodistill.support import files
    >>> with files.atomic_write("new/notes.txt") as part:
    ...     size = part.write_text("complete")
    ...     print(Path("new/notes.txt").exists())
    False
    >>> Path("new/notes.txt").read_text()
    'complete'
    """
    path = Path(path)
    if is_stream(path) and through_link:
        with tempfile.TemporaryDirectory() as folder:
            yield (part := Path(folder, "part"))
            with disk_errors(path), open(part, "rb") as source, open(path, "wb") as target:
                shutil.copyfileobj(source, target)
        return
    path = Path(real_path(path)) if path.is_symlink() and through_link else path
    # Processes of two machines or containers may have the same number.
    part = path.with_name(f".{path.name}.{os.getpid()}-{os.urandom(4).hex()}.part")
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_parts(path)
        try:
            with part_lock(part):
                yield part
                if path.exists() and not path.is_file() and not path.is_symlink():
                    raise DataError(f"{path}: not a regular file, so it is not replaced; give another path")
                replace_file(part, path)
        finally:
            with contextlib.suppress(OSError):
                part.unlink(missing_ok=True)


def unshare_file(path: str | os.PathLike) -> None:
    """Replace a symbolic link, or a file with other hard links, by a copy. Call it before a file is changed in place.

    So what the link leads to, or a snapshot of a folder (`cp -al`), stays as it is. Processes that have opened the file
    before go on with the old one. The file may be missing. Raise DataError for a link to something else than a file.
    """
    path = Path(path)
    if is_shared(path):
        with work_lock(path):
            if not is_shared(path):  # another process has copied it in the meantime
                return
            if not path.exists():  # a link that leads nowhere
                path.unlink()
                return
            require_file(path)
            with atomic_write(path, through_link=False) as part:
                shutil.copy(path, part)  # with its mode


def is_shared(path: Path) -> bool:
    """Return whether a path is a symbolic link, or a file that has other names, too."""
    try:
        found = os.lstat(path)
    except FileNotFoundError:
        return False
    return stat.S_ISLNK(found.st_mode) or (stat.S_ISREG(found.st_mode) and found.st_nlink > 1)


def is_stream(path: Path) -> bool:
    """Return whether a path is a character device or a pipe: it can be written to, but must not be replaced."""
    return path.is_char_device() or path.is_fifo()


def require_apart(path: str | os.PathLike, inputs: Iterable[str | os.PathLike] = ()) -> None:
    """Raise DataError if an output is an input, by whatever name, or inside a clip store or a recording's folder.

    Call it for the `--out` of every command, a file or a folder.
    """
    if os.path.exists(path) and any(is_same(source, path) for source in inputs):
        raise DataError(f"{path}: also an input of this command; give another path")
    real = Path(real_path(path))
    for folder in real.parents:
        if (folder / "store.json").is_file():
            raise DataError(f"{path}: inside the clip store {folder}; give a path outside of it")
    for folder in (real, *real.parents):
        if all((folder / name).is_file() for name in NEON):
            raise DataError(f"{path}: in the folder of the Neon recording {folder}; give a path outside of it")


def require_writable(path: str | os.PathLike) -> None:
    """Raise DataError unless the system lets this process write an output. Call it for the `--out` of every command.

    The output may be missing, as may folders above it.
    """
    folder = Path(path) if os.path.isdir(path) else Path(path).parent
    while not os.path.exists(folder):
        folder = folder.parent
    if not is_stream(Path(path)) and not (folder.is_dir() and os.access(folder, os.W_OK)):
        raise DataError(f"{path}: cannot be written, because {folder} is not a writable folder; give another path")


def check_output(
    path: str | os.PathLike,
    inputs: Iterable[str | os.PathLike] = (),
    *,
    ours: Sequence[bytes] | None = (),
    overwrite: bool = False,
) -> None:
    """Raise DataError unless a result that is made from `inputs` may be written to a path. Call it before any work.

    A folder, an input and a file of a clip store are never replaced. Another existing file is replaced only if it is
    empty, if it is an earlier result (one of the patterns `ours` matches in its first megabyte; None: these stay, too),
    or with `overwrite`.
    """
    path = Path(path)
    if is_stream(path):
        return
    if path.exists() and not path.is_file():
        raise DataError(f"{path}: a {'folder' if path.is_dir() else 'device'}, not a file; give a file name")
    require_writable(path)
    require_apart(path, inputs := list(inputs))
    if not path.exists():
        return
    with open(path, "rb") as file:
        start = file.read(1 << 20)
    if not start or any(re.search(pattern, start) for pattern in ours or ()):
        return
    predicted = start.removeprefix(b"\xef\xbb\xbf").startswith(PREDICTED.encode())
    for source in map(Path, () if predicted else inputs):
        tables = [source.parent / f"{source.stem}{end}" for end in (".csv", ".CSV", ".gcsv", ".GCSV", *PAIR)]
        if source.name and any(is_same(path, table) for table in tables):
            raise DataError(f"{path}: may be the IMU of {source}, an input of this command; give another path")
    if not overwrite:
        why = "" if ours is None else " and is not an earlier result"
        raise DataError(f"{path}: already exists{why}; give another path, or --overwrite")


def pair_files(path: str | os.PathLike) -> list[Path]:
    """Return the files of a pair of `export_pair()`: STEM.frame.SUFFIX and STEM.motion.SUFFIX for STEM.SUFFIX."""
    path = Path(path)
    return [path.with_name(f"{path.stem}.{part}{path.suffix}") for part in EXPORTED_PAIR]


def description_of(path: Path) -> Path:
    """Return the JSON file that describes an exported file."""
    return path.with_name(f"{path.name}.json")


def training_file(out: str | os.PathLike) -> Path:
    """Return the path of the checkpoint from which an interrupted training continues."""
    return Path(f"{out}.training")


def log_path(checkpoint: str | os.PathLike) -> Path:
    """Return the path of the history that a training writes beside a checkpoint, one JSON line per epoch."""
    path = Path(checkpoint)  # the end of "tau1.5" is not a suffix
    return path.with_name((path.stem if path.suffix in (".pt", ".pth", ".ckpt", ".training") else path.name) + ".jsonl")


def require_log(checkpoint: str | os.PathLike) -> None:
    """Raise DataError if another file than the log of a training is where that of this training goes."""
    path = log_path(checkpoint)
    if not path.exists() or path.is_symlink():  # the log takes the place of a link
        return
    if path.is_file():
        with open(path, "rb") as file, contextlib.suppress(ValueError, RecursionError):
            row = json.loads(file.readline(1 << 20) or '{"epoch": 0}')  # an empty file may be replaced
            if isinstance(row, dict) and "epoch" in row:
                return
    raise DataError(
        f"{path}: the log of the training goes here, but this is not the log of one; move it, or give another "
        f"{named('out')}"
    )


def remove_parts(path: str | os.PathLike) -> None:
    """Remove the temporary files of `path` that killed processes left; those of running ones stay."""
    path = Path(path)
    for part in path.parent.glob(f".{glob.escape(path.name)}.*.part"):
        remove_stale_part(part)


def remove_stale_part(part: Path) -> None:
    """Remove a temporary file of `atomic_write()` unless the process that writes it is alive, or may be."""
    with contextlib.suppress(OSError), part_lock(part) as is_dead:
        if is_dead:
            part.unlink()


@contextlib.contextmanager
def part_lock(part: Path) -> Iterator[bool]:
    """Hold a lock on a temporary file while the block writes it. Raise BlockingIOError if another process does.

    Yield False if the file system has no locks: then another process may write it, too. Windows has no locks
    that let the block itself write; there, an open file cannot be removed.
    """
    if fcntl is None:
        yield True
        return
    with open(part, "ab") as file:
        yield flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def flock(file: IO, operation: int) -> bool:
    """Lock a file; return False if its file system has no locks."""
    try:
        fcntl.flock(file, operation)
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        return False
    return True


def replace_file(source: Path, target: Path) -> None:
    """Rename a file to `target`. Windows refuses while another process reads `target`, so retry for a second."""
    for _ in range(20):
        with contextlib.suppress(PermissionError):
            os.replace(source, target)
            return
        time.sleep(0.05)
    os.replace(source, target)


@contextlib.contextmanager
def disk_errors(path: Path, *, continues: bool = True) -> Iterator[None]:
    """Convert an error in writing a file to an EgoDistillOSError that names the file and the free space.

    `continues`: whether the same call continues from what was written.
    """
    try:
        yield
    except OSError as error:
        if error.errno in (None, errno.EPIPE):
            raise  # not of the operating system; or the reader of a pipe is gone, such as that of what the block prints
        about = path if error.filename is None else Path(os.fsdecode(error.filename))
        if about != path and about not in path.parents and not about.name.startswith(f".{path.name}."):
            raise  # about another file, which the block read
        raise EgoDistillOSError(
            f"{path}: cannot be written: {error.strerror or error}; {free_megabytes(path):.1f} MB are free there. "
            f"{KEPT[continues]}"
        ) from error


def free_megabytes(path: str | os.PathLike) -> float:
    """Return the free space in MB on the disk of a path."""
    folder = next(folder for folder in (Path(path).absolute(), *Path(path).absolute().parents) if folder.is_dir())
    return shutil.disk_usage(folder).free / 1e6


def write_json(path: str | os.PathLike, value: Any, *, through_link: bool = True) -> None:
    """Write a JSON file atomically. A list is written with one line per item.

    Raise DataError for a number that is infinite or NaN, which JSON does not have.
    """
    try:
        if isinstance(value, list):
            text = "[\n" + ",\n".join(json.dumps(item, allow_nan=False) for item in value) + "\n]\n"
        else:
            text = json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    except ValueError as error:
        raise DataError(f"{path}: not written: {'; '.join(not_finite(value)) or error}") from error
    with atomic_write(path, through_link=through_link) as part:
        part.write_text(text, encoding="utf-8")


def not_finite(value: Any, name: str = "") -> list[str]:
    """Return "NAME is NUMBER" for each number that is infinite or NaN in nested lists and dicts."""
    if isinstance(value, float):
        return [] if math.isfinite(value) else [f"{name or 'the value'} is {value}"]
    if isinstance(value, Mapping):
        return [text for key, item in value.items() for text in not_finite(item, f"{name}.{key}" if name else f"{key}")]
    if isinstance(value, (list, tuple)):
        return [text for place, item in enumerate(value) for text in not_finite(item, f"{name}[{place}]")]
    return []


def require_file(path: str | os.PathLike, largest: int | None = None) -> None:
    """Raise DataError unless a path leads to a regular file, of at most `largest` bytes.

    Pipes and devices have no end, or wait for a writer.

    >>> from egodistill.support import files
    >>> files.require_file("/dev/null")
    Traceback (most recent call last):
    ...
    egodistill.DataError: /dev/null: a device, not a regular file; give a file
    """
    try:
        found = os.stat(path)
    except (OSError, ValueError) as error:  # ValueError: a name that no file can have
        raise DataError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from error
    if not stat.S_ISREG(found.st_mode):
        kinds = {stat.S_IFDIR: "folder", stat.S_IFIFO: "pipe", stat.S_IFSOCK: "socket"}
        kind = kinds.get(stat.S_IFMT(found.st_mode), "device")
        raise DataError(f"{path}: a {kind}, not a regular file; give a file")
    if largest is not None and found.st_size > largest:
        raise DataError(
            f"{path}: {found.st_size / 1e6:.0f} MB, more than the {largest / 1e6:.0f} MB that such a file may have; is "
            f"this the right file?"
        )


def read_json(path: str | os.PathLike) -> Any:
    """Return the content of a JSON file. Raise DataError if it is missing, damaged or larger than 1 GB."""
    require_file(path, MAX_JSON)
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error
    except RecursionError as error:
        raise DataError(f"{path}: is damaged: its values are nested too deep") from error
    except ValueError as error:
        raise DataError(f"{path}: is damaged: {error}") from error


def shipped(path: str | os.PathLike) -> str:
    """Return the file of a student that comes with the library, such as "glasses"; other paths as they are."""
    name = os.fspath(path)
    found = STUDENTS / f"{name}{MODEL_SUFFIX}"
    return str(found) if name.isidentifier() and found.is_file() else name


def signature(path: str | os.PathLike) -> str:
    """Return the size of a file and a checksum of its first and last 16 kB: enough to notice another file."""
    with open(path, "rb", buffering=0) as file:
        checksum = zlib.crc32(file.read(1 << 14))
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - (1 << 14)))
        return f"{size} bytes, {zlib.crc32(file.read(), checksum):08x}"


def append_line(path: Path, content: Mapping[str, Any]) -> None:
    """Append a JSON line to a file to which several processes write. An incomplete last line is ended first."""
    text = json.dumps(content).encode() + b"\n"
    with disk_errors(path), open(path, "ab+") as file:
        if file.tell():
            file.seek(-1, os.SEEK_END)
            if file.read(1) != b"\n":
                text = b"\n" + text
        file.write(text)


def read_lines(path: Path, *fields: str) -> Iterator[dict[str, Any]]:
    """Yield the objects with some fields among the lines of a file written by `append_line()`.

    Damaged lines, such as a full disk leaves, are skipped. The file may be missing.
    """
    if os.path.lexists(path):
        require_file(path, MAX_JSON)
        for text in path.read_bytes().splitlines():
            with contextlib.suppress(ValueError, RecursionError):
                line = json.loads(text)
                if isinstance(line, dict) and all(field in line for field in fields):
                    yield line


def content(folder: str | os.PathLike) -> list[str]:
    """Return the sorted names in a folder, without hidden files and those of file managers; [] if it is missing."""
    names = os.listdir(folder) if os.path.exists(folder) else []
    return sorted(name for name in names if not name.startswith(".") and not is_system_file(name))


def is_system_file(name: str) -> bool:
    """Return whether a file with this name was written by a file manager, such as .DS_Store or desktop.ini."""
    return name.lower() in (".ds_store", ".localized", ".directory", "thumbs.db", "ehthumbs.db", "desktop.ini")


# ---------------------------------------------------------------------------------------------------------------
# Several processes


@contextlib.contextmanager
def lock(path: str | os.PathLike) -> Iterator[None]:
    """Hold an exclusive lock on a file, which is created if missing; wait for another holder.

    The system releases the lock if the process dies. A lock held on another machine may not be visible on this one. So
    with WORLD_SIZE > 1, and where the file system has no locks, the process also holds the file ".NAME.held". If its
    holder dies, a process of the same machine takes it over (on Linux). Another one waits, says for whom, and raises
    DataError if the holder has shown no sign of life for five minutes.
    """
    with contextlib.ExitStack() as stack:
        _, locked = stack.enter_context(system_lock(path))
        if not locked or environment_share()["world_size"] > 1:
            stack.enter_context(held_file(Path(path)))
        yield


@contextlib.contextmanager
def system_lock(path: str | os.PathLike, busy: str | None = None) -> Iterator[tuple[IO[str], bool]]:
    """Hold the system's lock on a file; yield the open file, and False if the file system has no locks.

    Wait for another holder; with `busy`, raise DataError with this message instead. A link is replaced by a file of its
    own; a pipe, which would wait for a reader, is a DataError.
    """
    if os.path.islink(path):
        unshare_file(path)
    if Path(path).is_fifo():
        require_file(path)
    with open(path, "a", encoding="utf-8") as file:
        if fcntl is not None:
            try:
                locked = flock(file, fcntl.LOCK_EX | (fcntl.LOCK_NB if busy else 0))
            except BlockingIOError as error:
                raise DataError(busy) from error
            yield file, locked
        elif msvcrt is not None:
            while True:
                with contextlib.suppress(PermissionError):  # Another process holds it.
                    file.seek(0)
                    msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
                    break
                if busy:
                    raise DataError(busy)
                time.sleep(0.01)
            try:
                yield file, True
            finally:
                file.seek(0)
                msvcrt.locking(file.fileno(), msvcrt.LK_UNLCK, 1)
        else:
            raise DataError(f"{path}: cannot be locked, because this Python has neither fcntl nor msvcrt")


@contextlib.contextmanager
def held_file(path: Path) -> Iterator[None]:
    """Hold `path` by a file that only one process of all machines can create; wait for another that does.

    The file of a killed process stays. A process of the same machine sees that its holder has ended, and takes the lock
    over. Others see no sign of life and raise DataError after `holders.PATIENCE` seconds.
    """
    held, mine = path.with_name(f".{path.name}.held"), holders.this_process()
    wait = holders.Wait(held)
    while not create(held, mine):
        wait.step()
    try:
        with holders.signs_of_life(held):
            yield
    finally:
        with contextlib.suppress(FileNotFoundError):  # Somebody may have removed it, and another may hold the lock.
            if held.read_text(encoding="utf-8") == mine:
                remove_file(held)


def create(path: Path, text: str) -> bool:
    """Create a file with a text; return False if it exists. Raise EgoDistillOSError if it cannot be written."""
    with disk_errors(path):
        try:
            file = open(path, "x", encoding="utf-8")
        except FileExistsError:
            return False
        try:
            with file:
                file.write(text)
        except OSError:
            path.unlink()
            raise
    return True


def remove_file(path: Path) -> None:
    """Remove a file. Windows refuses while another process reads it, so retry for a second."""
    for _ in range(20):
        with contextlib.suppress(PermissionError):
            path.unlink(missing_ok=True)
            return
        time.sleep(0.05)
    path.unlink(missing_ok=True)


@contextlib.contextmanager
def work_lock(path: str | os.PathLike, busy: str | None = None) -> Iterator[None]:
    """Hold `path` while the block works on it.

    The lock is the file ".NAME.lock" beside it, which is removed at the end. Where the file system has no locks, print
    a warning and go on: work takes long, and a file that outlives its process would stop a run that continues. If
    another process holds it, raise DataError with the text `busy`; None: wait for that process.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    name = path.with_name(f".{path.name}.lock")
    waits = "another process works on it"
    if busy is None:
        try:
            with system_lock(name, waits):
                pass
        except DataError:
            print(f"{path}: {waits}; waiting for it to end", file=sys.stderr)
    while True:
        with system_lock(name, busy) as (file, locked):
            # The last holder may have removed the file after this process had opened it.
            if locked and not (name.exists() and os.path.samestat(os.fstat(file.fileno()), name.stat())):
                continue
            if not locked:
                print(f"{path}: its file system has no locks; let no other process work on it", file=sys.stderr)
            try:
                yield
            finally:
                with contextlib.suppress(OSError):  # Windows does not remove an open file.
                    name.unlink()
            return


@contextlib.contextmanager
def output_lock(path: str | os.PathLike) -> Iterator[None]:
    """Let no other process write `path` during the block; raise DataError at once if one already does.

    For a file that grows while a command runs. Pipes and devices are not locked.
    """
    path = Path(path)
    with contextlib.ExitStack() as stack:
        if not is_stream(path):
            path = Path(real_path(path))  # another link leads to the same file
            busy = f"{path}: another process is writing it; wait for its end, or give another path"
            with disk_errors(path):
                stack.enter_context(work_lock(path, busy))
        yield


def available_cores() -> int:
    """Return the number of cores that this process may use; a container or scheduler may limit it."""
    if count := getattr(os, "process_cpu_count", None):  # Python 3.13
        return count() or 1
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def other_programs_run() -> bool:
    """Return whether another program on this machine computes now; always False on other systems than Linux.

    In a container it counts the programs of the whole machine.
    """
    counts = []
    try:
        for _ in range(3):  # A single one may be a program that runs for a moment.
            with open("/proc/loadavg", encoding="ascii") as file:
                counts.append(int(file.read().split()[3].split("/")[0]))  # running threads, this one included
            time.sleep(0.005)
    except (OSError, ValueError, IndexError):
        return False
    return min(counts) > 1


def environment_share() -> dict[str, int]:
    """Return {"rank": ..., "world_size": ...} from the variables RANK and WORLD_SIZE, by default 0 and 1.

    For commands whose processes do not communicate. Functions use a share only if the caller passes one. Raise
    DataError if only one of the two is set, or if they are not a rank and a number of processes.
    """
    variables = {name: os.environ.get(name, "") for name in ("RANK", "WORLD_SIZE")}
    if not any(variables.values()):
        return {"rank": 0, "world_size": 1}
    found = " and ".join(f"{name}={text!r}" for name, text in variables.items())
    try:
        share = {name.lower(): int(text) for name, text in variables.items()}
    except ValueError as error:
        raise DataError(
            f"the environment variables {found} must be integers; set both, RANK from 0 to WORLD_SIZE - 1, or neither"
        ) from error
    check_share(**share)
    return share


def check_share(rank: int, world_size: int) -> None:
    """Raise DataError if the rank, from 0 on, is not below the world size."""
    if not 0 <= rank < world_size:
        raise DataError(f"rank {rank} is not one of the {world_size} processes, 0 to {world_size - 1}")


# ---------------------------------------------------------------------------------------------------------------
# Comparing the settings of runs


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Return the settings in which two runs differ: {name: (before, now)}, nested ones as "outer.inner".

    Values are compared after conversion to JSON.

    >>> from egodistill.support import files
    >>> files.differences({"epochs": 5, "student": {"width": 16}}, {"epochs": 5, "student": {"width": 32}})
    {'student.width': (16, 32)}
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
    """Raise DataError if the settings of an unfinished run differ from those of the call that continues it.

    The message starts with `source`, the run's file or folder, and ends with `advice`.
    """
    if changes := list_differences(before, now):
        raise DataError(f"{source}: was begun with other settings: {changes}. {advice}")


def list_differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """Return a list of the settings in which two runs differ, with both values, at most five; "" if there are none."""
    different = differences(before, now)
    changes = [f"{name} was {shorten(old)} and is now {shorten(new)}" for name, (old, new) in different.items()]
    return "; ".join(changes[:5]) + (f"; and {len(changes) - 5} more" if len(changes) > 5 else "")


def shorten(value: Any, length: int = 200) -> str:
    text = repr(value)
    return text if len(text) <= length else f"{text[: length - 4]} ..."


# ---------------------------------------------------------------------------------------------------------------
# Reading ahead, and progress


def read_ahead(
    items: Iterable[Item], read: Callable[[Item], Result], begin: Callable[[], None] | None = None
) -> Iterator[tuple[Result, float]]:
    """Yield (`read(item)`, seconds waited for it) for each item, while a thread already reads the next item.

    An error of `read` is raised when its item is due; `begin` is called once in that thread.
    """
    items = iter(items)
    with ThreadPoolExecutor(1, initializer=begin) as pool:
        coming = [pool.submit(read, item) for item in [next(items, None)] if item is not None]
        while coming:
            start_time = time.monotonic()
            result = coming.pop().result()
            waited = time.monotonic() - start_time
            following = next(items, None)
            if following is not None:
                coming.append(pool.submit(read, following))
            yield result, waited


def clock(seconds: float) -> str:
    """Return a duration as a clock shows it, with hours if there are any.

    >>> from egodistill.support import files
    >>> files.clock(5), files.clock(1769), files.clock(3723)
    ('0:05', '29:29', '1:02:03')
    """
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}" if minutes >= 60 else f"{minutes}:{rest:02}"


class Progress:
    """Progress of a long step on stderr: amount, speed and time left.

    A terminal shows one line that is updated. A log file gets one line per minute, and one at the end. What was `done`
    before does not count for the speed.
    """

    def __init__(self, title: str, total: int, *, unit: str = "clips", done: int = 0, show: bool = True) -> None:
        self.title, self.total, self.unit = title, total, unit
        self.done = self.first = done
        self.started = self.drawn = time.monotonic()
        self.note = ""
        self.show = show and sys.stderr is not None  # None under pythonw on Windows
        self.terminal = self.show and sys.stderr.isatty()

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def step(self, count: int = 1, note: str = "") -> None:
        """Add to the amount that is done."""
        self.update(self.done + count, note)

    def update(self, done: int, note: str = "") -> None:
        """Set the amount that is done."""
        self.done, self.note = done, note
        if time.monotonic() - self.drawn > (0.2 if self.terminal else 60):
            self.draw("" if self.terminal else "\n")

    def close(self) -> None:
        """Print the final state and end the line, unless nothing was done."""
        if self.done > self.first or self.drawn > self.started:
            self.draw("\n")
        self.show = False

    def draw(self, end: str) -> None:
        """Print the line, and `end` as for `print()`."""
        self.drawn = time.monotonic()
        if not self.show:
            return
        speed = (self.done - self.first) / max(self.drawn - self.started, 1e-9)
        left = clock((self.total - self.done) / speed) if speed else "?"
        line = f"{self.title}: {self.done}/{self.total} {self.unit}, {speed:.1f} {self.unit}/s, {left} left"
        line += f", {self.note}" if self.note else ""
        # Spaces overwrite the rest of a longer line.
        print(f"\r{line:<99}" if self.terminal else line, end=end, file=sys.stderr, flush=True)
