"""Simulate on Linux what the library meets on Windows and macOS.

    environment = foreign.environment(tmp_path / "foreign")
    subprocess.run([sys.executable, "script.py"], env=environment)

The environment puts a `sitecustomize.py` on PYTHONPATH, so the simulation also holds in the processes that the script
starts. It takes away calls of POSIX, moves the clocks in steps of 1/64 s, refuses to rename or remove a file that any
process of the simulation has open or mapped, and gives Python the encoding cp1252 for output and ASCII for files.
`fcntl` gives way to `msvcrt`, with the semantics of Windows: locks of byte ranges that belong to an open file.
"""

import os
import sys
from pathlib import Path

import pytest

linux_only = pytest.mark.skipif(
    not sys.platform.startswith("linux"),
    reason="the simulation of Windows and macOS needs Linux: it reads /proc and uses open file description locks",
)

MSVCRT = """
import errno, fcntl, os, struct, sys, time, types
import subprocess  # It takes a module msvcrt for a sign of Windows, so it is imported before there is one.

LK_UNLCK, LK_LOCK, LK_NBLCK, LK_RLCK, LK_NBRLCK = range(5)

def locking(descriptor, mode, count):
    kind = fcntl.F_UNLCK if mode == LK_UNLCK else fcntl.F_WRLCK
    request = struct.pack("hhqqi4x", kind, os.SEEK_SET, os.lseek(descriptor, 0, os.SEEK_CUR), count, 0)
    for attempt in range(10 if mode in (LK_LOCK, LK_RLCK) else 1):
        if attempt:
            time.sleep(1)
        try:
            fcntl.fcntl(descriptor, fcntl.F_OFD_SETLK, request)
            return
        except (BlockingIOError, PermissionError):
            pass
    code = errno.EDEADLK if mode in (LK_LOCK, LK_RLCK) else errno.EACCES
    raise OSError(code, os.strerror(code))

module = types.ModuleType("msvcrt")
for name in ("LK_UNLCK", "LK_LOCK", "LK_NBLCK", "LK_RLCK", "LK_NBRLCK", "locking"):
    setattr(module, name, globals()[name])
sys.modules |= {"msvcrt": module, "fcntl": None}
"""

OPEN_FILES = """
import errno, functools, os

def in_use(path):
    # By a process of this simulation, this one included.
    path, mark = os.path.realpath(path), b"EGODISTILL_FOREIGN=" + os.environb[b"EGODISTILL_FOREIGN"]
    for process in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{process}/environ", "rb") as file:
                if mark not in file.read().split(bytes(1)):
                    continue
            with open(f"/proc/{process}/maps", "rb") as file:
                if any(line.split(maxsplit=5)[5:] == [os.fsencode(path) + b"\\n"] for line in file):
                    return True
            descriptors = os.listdir(f"/proc/{process}/fd")
        except OSError:  # It ended, or is another user's.
            continue
        for number in descriptors:
            try:
                if os.readlink(f"/proc/{process}/fd/{number}") == path:
                    return True
            except OSError:  # It was closed.
                pass
    return False

def refuse(call, count, *paths, **options):
    for path in paths[:count]:
        if not options and os.path.isfile(path) and in_use(path):
            raise PermissionError(errno.EACCES, "The file is used by another process", path)
    return call(*paths, **options)

# Like the functions of C that they replace, partials do not turn into methods where a class holds them.
for name, count in (("replace", 2), ("rename", 2), ("unlink", 1), ("remove", 1)):
    setattr(os, name, functools.partial(refuse, getattr(os, name), count))
"""

LESS = """
import functools, math, os, signal, time

os.process_cpu_count = os.cpu_count  # In 3.13 it uses sched_getaffinity.
for module, names in ((os, ("posix_fallocate", "sched_getaffinity", "setpriority")), (signal, ("pthread_sigmask",))):
    for name in names:
        delattr(module, name)

def coarse(clock):
    return math.floor(clock() * 64) / 64

for name in ("time", "monotonic", "perf_counter", "process_time"):
    setattr(time, name, functools.partial(coarse, getattr(time, name)))
"""

ENCODINGS = {"PYTHONIOENCODING": "cp1252", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "LC_ALL": "C"}


def environment(folder: Path, *parts: str, **variables: str) -> dict[str, str]:
    """Return the environment of a process in the simulation, or in these parts of it (without ENCODINGS)."""
    folder.mkdir()
    (folder / "sitecustomize.py").write_text("\n".join(parts or (LESS, OPEN_FILES, MSVCRT)), encoding="utf-8")
    path = os.pathsep.join(filter(None, (str(folder), os.environ.get("PYTHONPATH"))))
    encodings = {} if parts else ENCODINGS
    return os.environ | {"PYTHONPATH": path, "EGODISTILL_FOREIGN": str(folder)} | encodings | variables
