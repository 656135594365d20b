"""Work in several Python processes, without a `__main__` guard in the caller's script.

    work = Processes("world.synthetic.write_bundle", str(out), bundles, workers=4)
    with Watch(files.Progress("render", total), count):      # a bar that asks count() for what is done
        work.run()

A process imports the package and calls a function of one of its modules, as `write_bundle(str(out), bundle)`; bundles
are JSON values. Nothing is forked, so no process inherits a lock that is held, and a decoder that crashes ends only one
process. The processes communicate through files only.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import faulthandler
import importlib
import json
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from . import files
from .errors import EgoDistillError, describe_error

__all__ = ["CRASHES", "Processes", "Watch"]

# Exit codes of a decoder that crashed on broken data. Other codes, such as that of a scheduler's SIGTERM, are not
# caused by the video.
CRASHES = {-getattr(signal, name, 0) for name in ("SIGSEGV", "SIGABRT", "SIGFPE", "SIGILL")} - {0}
# The same on Windows: access violation, division by zero, illegal instruction, heap corruption, stack overrun, abort().
CRASHES |= {0xC0000005, 0xC0000094, 0xC000001D, 0xC0000374, 0xC0000409, 3}
ENDS = {
    -9: "killed, perhaps because memory ran out",
    -getattr(signal, "SIGBUS", 7): "perhaps because the disk is full",
}
# Import the package from where this process found it. Its folder then comes last in sys.path, so that no other file
# there hides the standard library.
WORKER = (
    "import sys; sys.path[0] = sys.argv[1]; import egodistill; sys.path.append(sys.path.pop(0)); "
    "from egodistill.support import processes; processes.serve(*sys.argv[2:])"
)


class Processes:
    """Processes that work on bundles, and a thread for each that starts it and handles its exit code.

    A process works on one bundle. Subclasses may handle exit codes in another way. The target is a function of the
    package, such as "data.fill_bundle", which gets `argument` and a bundle (JSON values); at most `workers` run at a
    time.
    """

    def __init__(self, target: str, argument: str, bundles: Iterable[Any], workers: int) -> None:
        self.target, self.argument, self.workers = target, argument, workers
        self.bundles: queue.SimpleQueue[Any] = queue.SimpleQueue()
        for bundle in bundles:
            self.bundles.put(bundle)
        self.running: set[subprocess.Popen] = set()
        self.ended = threading.Event()

    def run(self) -> None:
        """Work on all bundles. An error or Ctrl-C ends all processes."""
        with concurrent.futures.ThreadPoolExecutor(self.workers) as pool:
            try:
                futures = [pool.submit(self._work) for _ in range(self.workers)]
                for future in concurrent.futures.as_completed(futures):
                    future.result()
            finally:
                self.stop()

    def stop(self) -> None:
        """End all processes."""
        self.ended.set()
        for process in list(self.running):
            process.kill()

    def handle_exit(self, bundle: Any, code: int) -> None:
        """Handle a process that has ended; raise EgoDistillError unless its code is 0."""
        if code:
            raise EgoDistillError(
                f"a process of {self.target}() ended with code {code} ({explain(code)}); finished work is kept: "
                f"make the same call again to continue"
            )

    def _work(self) -> None:
        """Run in a thread: start a process for each bundle in turn."""
        if hasattr(signal, "pthread_sigmask"):  # The processes inherit this: only the parent handles Ctrl-C.
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        while not self.ended.is_set():
            try:
                bundle = self.bundles.get_nowait()
            except queue.Empty:
                return
            code = self._run_process(bundle)
            if not self.ended.is_set():
                self.handle_exit(bundle, code)

    def _run_process(self, bundle: Any) -> int:
        """Run a process that works on a bundle, and return its exit code."""
        command = [sys.executable, "-c", WORKER, _package_root(), self.target, self.argument]
        # On Windows a process group of its own keeps Ctrl-C from the process, as the signal mask does elsewhere.
        group = getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0)
        process = subprocess.Popen(command, stdin=subprocess.PIPE, encoding="utf-8", creationflags=group)
        self.running.add(process)
        # The pipe stays open until the process has ended: a closed pipe shows the process that its parent has died.
        with contextlib.suppress(OSError):  # It crashed before it read its bundle; its exit code is handled later.
            print(json.dumps(bundle), file=process.stdin, flush=True)
        process.wait()
        with contextlib.suppress(OSError):
            process.stdin.close()
        self.running.discard(process)
        return process.returncode


def explain(code: int) -> str:
    """Return what the exit code of a process may mean."""
    return ENDS.get(code, "see its output above")


def _package_root() -> str:
    """Return the folder from which Python imports the package: a checkout, or site-packages."""
    folder = Path(os.path.abspath(__file__)).parents[1]
    return str(folder if (folder / "egodistill.py").is_file() else folder.parent)


def serve(target: str, argument: str) -> None:
    """Run in a process of `Processes`: call the target for the bundle in the first line of stdin."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # for systems without the signal mask of Processes._work()
    faulthandler.enable()  # a crash prints the line that called the decoder
    bundle = json.loads(sys.stdin.readline())
    threading.Thread(target=_end_with_parent, daemon=True).start()
    module, name = target.rsplit(".", 1)
    try:
        getattr(importlib.import_module(f"egodistill.{module}"), name)(argument, bundle)
    except (EgoDistillError, OSError) as error:
        sys.exit(f"egodistill: {describe_error(error)}")


def _end_with_parent() -> None:
    """End this process when stdin closes, because its parent has died and may have been started again.

    The parent's process id cannot show that: on Windows it stays the same.
    """
    os.read(0, 1)
    os._exit(1)


class Watch:
    """A progress bar that asks twice a second how much all processes have done, while a `with` block runs."""

    def __init__(self, bar: files.Progress, count: Callable[[], int]) -> None:
        self.bar, self.count = bar, count
        self.ended = threading.Event()
        self.thread = threading.Thread(target=self._watch)

    def __enter__(self) -> None:
        self.thread.start()

    def __exit__(self, *error: object) -> None:
        self.ended.set()
        self.thread.join()

    def _watch(self) -> None:
        with self.bar:
            while not self.ended.wait(0.5):
                self.bar.update(self.count())
            self.bar.update(self.count())
