"""Ctrl-C at any moment: one line, exit code 130, and no traceback.

    exit_immediately()             # before the heavy imports, which an exception may leave half done
    with interruptible():       # the command: KeyboardInterrupt, so that its files and processes are closed
        run()

This module imports nothing heavy.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from types import FrameType

__all__ = ["interruptible", "exit_immediately"]


def exit_immediately() -> None:
    """Let Ctrl-C end the process at once, without running any more Python; not where it is ignored, or in a thread.

    For the time in which nothing is open that must be closed. When all is done and Python takes itself apart, it would
    drop the handler, and die of the signal; from then on, Ctrl-C is ignored.
    """
    if threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGINT) not in (
        signal.SIG_IGN,
        None,
    ):
        signal.signal(signal.SIGINT, _leave)
        atexit.register(signal.signal, signal.SIGINT, signal.SIG_IGN)  # registered first, it runs last


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """Let Ctrl-C raise KeyboardInterrupt inside the block, if it would leave at once; a second one leaves at once."""
    ours = threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGINT) is _leave
    if ours:
        signal.signal(signal.SIGINT, _interrupt)
    try:
        yield
    finally:
        if ours:
            signal.signal(signal.SIGINT, _leave)


def _interrupt(number: int, frame: FrameType | None) -> None:
    signal.signal(number, _leave)
    raise KeyboardInterrupt


def _leave(number: int, frame: FrameType | None) -> None:
    os.write(2, b"\ninterrupted\n")
    os._exit(128 + number)
