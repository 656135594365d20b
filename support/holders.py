"""Which process holds a file, and whether it still runs.

    from egodistill.support import holders

    record = holders.this_process()                          # what a holder writes into its file
    with holders.signs_of_life(path):                        # while it holds the file
        ...
    wait = holders.Wait(path)                                # another process, while there is the file
    wait.step()

A process can see only those of its own machine and container. Of others it sees signs of life: a holder touches its
file every `BEAT` seconds.
"""

from __future__ import annotations

import contextlib
import os
import platform
import socket
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from .errors import DataError

__all__ = ["Wait", "signs_of_life", "this_process"]

STEP, CHECK = 0.05, 1.0  # seconds between two steps of a wait, and between two checks of the holder
FIRST_NOTE, NOTE = 10.0, 60.0  # seconds of waiting until the holder's name is printed, and between two such notes
BEAT = 15.0  # seconds between two signs of life
PATIENCE = 300.0  # seconds without a sign of life, after which a holder is not waited for; NFS shows one a minute late
UNKNOWN = "?"


def this_process() -> str:
    """Return a record of this process: its name, and a line that shows whether it has ended. No two are equal."""
    number = os.getpid()
    words = [system(), str(number), started(number), os.urandom(4).hex()]
    return f"process {number} on {platform.node()}\n{' '.join(words)}\n"


def name_of(record: str) -> str:
    """Return the name of a process for messages from what `this_process()` returned there.

    "" is the record of one that was killed before it wrote it.
    """
    return record.partition("\n")[0] or "an unknown process"


def has_ended(record: str) -> bool:
    """Return whether a process is known to have ended; False if it runs, or cannot be seen from here."""
    words = record.partition("\n")[2].split()
    if len(words) != 4 or words[0] != system() or not words[1].isdigit():
        return False
    now = started(int(words[1]))
    return not now or (now != words[2] and UNKNOWN not in (now, words[2]))


def system() -> str:
    """Return a name for all that this process can see: its machine since it was started, and its container.

    "" on other systems than Linux.
    """
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return "/".join([boot, *(os.readlink(f"/proc/self/ns/{kind}") for kind in ("pid", "net"))])
    except OSError:
        return ""


def started(process: int) -> str:
    """Return when a process started, as text to compare; "" if it has ended, `UNKNOWN` if that cannot be seen."""
    if not system():
        return UNKNOWN
    try:
        state, *fields = Path(f"/proc/{process}/stat").read_text(errors="replace").rpartition(")")[2].split()
        return "" if state in "ZX" else fields[18]  # A killed process is Z until its parent asks for its exit code.
    except OSError:  # It has ended; or /proc hides the processes of other users.
        try:
            os.kill(process, 0)
        except ProcessLookupError:
            return ""
        except (OSError, OverflowError):
            pass
        return UNKNOWN


def remove_stale(path: Path, record: str) -> None:
    """Remove the file of a holder that has ended, unless another process has already, and print it to stderr.

    Two processes that both find the same dead holder must not both remove a file: the second might be that of the
    first. An address that only one process of a machine can have lets one at a time do it, and is free when it dies.
    """
    with socket.socket(socket.AF_UNIX) as one_at_a_time, contextlib.suppress(OSError):
        one_at_a_time.bind("\0egodistill removes the file of a dead holder")
        if path.read_text(encoding="utf-8") == record:
            path.unlink()
            print(f"{path}: {name_of(record)} has ended, so its lock is taken over", file=sys.stderr)


@contextlib.contextmanager
def signs_of_life(path: Path) -> Iterator[None]:
    """Touch a file every `BEAT` seconds during the block."""
    ended = threading.Event()
    threading.Thread(target=_touch, args=(path, ended), daemon=True).start()
    try:
        yield
    finally:
        ended.set()


def _touch(path: Path, ended: threading.Event) -> None:
    while not ended.wait(BEAT):
        with contextlib.suppress(OSError):
            os.utime(path)


class Wait:
    """A wait of this process for the one that holds a file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.began = self.alive = self.next_check = time.monotonic()
        self.next_note = self.began + FIRST_NOTE
        self.touched: int | None = None

    def step(self) -> None:
        """Wait for a moment; if it is time to, check the holder and print its name.

        A holder that is known to have ended loses its file. Raise DataError for one without a sign of life.
        """
        if time.monotonic() >= self.next_check:
            with contextlib.suppress(OSError):  # The file is gone, or Windows is about to remove it.
                self.check()
        time.sleep(STEP)

    def check(self) -> None:
        """Look at the holder: take its file away if it has ended; raise DataError if it seems dead elsewhere."""
        now, touched = time.monotonic(), self.path.stat().st_mtime_ns
        record = self.path.read_text(encoding="utf-8", errors="replace")
        self.next_check = now + CHECK
        if touched != self.touched:
            self.touched, self.alive = touched, now
        if has_ended(record):
            remove_stale(self.path, record)
        elif now > self.alive + PATIENCE:
            raise DataError(
                f"{self.path}: {name_of(record)} has shown no sign of life for {PATIENCE / 60:g} minutes. If it has "
                f"ended, remove this file and run the command again"
            )
        elif now > self.next_note:
            print(f"{self.path}: waiting for {name_of(record)}; if it has ended, remove this file", file=sys.stderr)
            self.next_note = now + NOTE
