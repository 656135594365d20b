"""Ctrl-C at the worst moments of a command: one line, exit code 130, no traceback."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# Runs a command; SIGINT comes at the moment that `{place}` describes.
PROGRAM = """
import atexit, os, runpy, signal, sys, time

def strike(*_):
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(5)  # not reached

class Finder:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name == place:
            strike()

place = sys.argv.pop(1)
if place == "end":
    atexit.register(strike)
elif place == "lost":  # in a callback, Python prints a KeyboardInterrupt and goes on
    from egodistill.datasets import store
    def opened(*_, **__):
        class Lost:
            def __del__(self):
                os.kill(os.getpid(), signal.SIGINT)
                time.sleep(0.1)
        sys.unraisablehook = lambda *_: None
        Lost()
        strike()
    store.ClipStore.__init__ = opened
else:
    sys.meta_path.insert(0, Finder)
sys.argv[0] = "egodistill"
runpy.run_module("egodistill", run_name="__main__")
"""


def run(place, *words, ignored=False):
    def ignore():
        signal.signal(signal.SIGINT, signal.SIG_IGN if ignored else signal.SIG_DFL)

    command = [sys.executable, "-c", PROGRAM, place, *map(str, words)]
    options = {"capture_output": True, "text": True, "timeout": 120, "check": False, "cwd": ROOT}
    return subprocess.run(command, **options, preexec_fn=ignore)


@pytest.mark.skipif(os.name == "nt", reason="Windows has no signals of processes")
@pytest.mark.parametrize(
    ("place", "command"),
    [
        ("egodistill.commands.cli", "status"),
        ("numpy", "status"),
        ("egodistill.commands.recordings", "status"),
        ("torch", "evaluate"),
        ("torch.nn", "evaluate"),
        ("lost", "status"),
        ("end", "status"),
    ],
)
def test_ctrl_c_is_one_line(store, place, command):
    words = {"status": [store.path, "--seconds", "0.1"], "evaluate": [store.path, "--student", __file__]}[command]
    done = run(place, command, *words)
    assert (done.returncode, done.stderr) == (130, "\ninterrupted\n")


@pytest.mark.skipif(os.name == "nt", reason="Windows has no signals of processes")
def test_ctrl_c_that_is_ignored_stays_ignored(store):
    """As in `nohup`, or a job in the background of a shell script."""
    done = run("end", "status", store.path, "--seconds", "0.1", ignored=True)
    assert (done.returncode, done.stderr) == (0, "") and "prepare" in done.stdout


@pytest.mark.parametrize("command", ["status", "segments", "convert", "check"])
def test_light_commands_do_not_import_torch(command, tmp_path):
    code = "import sys; from egodistill.commands import cli; cli.main(sys.argv[1:]); print('torch' in sys.modules)"
    words = [tmp_path / "absent", *(["--out", tmp_path / "o"] if command == "convert" else [])]
    call = [sys.executable, "-c", code, command, *words]
    done = subprocess.run(call, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.stdout.splitlines()[-1] == "False" and "absent" in done.stdout + done.stderr
