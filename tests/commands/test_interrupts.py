"""Ctrl-C at the worst moments of a command, and at random ones: one line, exit code 130, no traceback.

EGODISTILL_INTERRUPTS=200 pytest -s -m slow tests/commands/test_interrupts.py       # 200 random moments; -s shows each
"""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from waiting import LIMIT

from egodistill import CLIP_SECONDS, teachers

ROOT = Path(__file__).parents[2]
# Runs a command; SIGINT comes at the moment that `{place}` describes.
PROGRAM = """
import atexit, os, runpy, signal, sys, time

def strike(*_):
    os.kill(os.getpid(), signal.SIGINT)
    if signal.getsignal(signal.SIGINT) != signal.SIG_IGN:
        time.sleep(600)  # not reached

class Finder:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name == place:
            strike()
        if name == "egodistill.commands.cli" and place == "end":
            atexit.register(strike)

place = sys.argv.pop(1)
if place == "ruins":  # its module is taken apart after everything else has ended
    class Last:
        def __del__(self, kill=os.kill, process=os.getpid(), number=signal.SIGINT):
            kill(process, number)
    sys.modules["last"] = Last()
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
    options = {"capture_output": True, "text": True, "timeout": LIMIT, "check": False, "cwd": ROOT}
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
def test_ctrl_c_after_the_end_changes_nothing(store):
    done = run("ruins", "status", store.path, "--seconds", "0.1")
    assert (done.returncode, done.stderr) == (0, "") and "prepare" in done.stdout


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


# Runs a command; a byte on standard output says that its first line is reached.
BEGIN = "import os, sys; from egodistill.__main__ import main; os.write(1, b'+'); sys.exit(main())"
# All commands, as cheap as they can be; NEW is a file or folder that an earlier run may have left, finished or not.
SETTINGS = "--preset demo --epochs 2 --batch-size 4 --precision fp32 --overwrite"
POOL = """
status store --seconds 0.1
segments table.csv
check walk.MP4 --imu walk-accl.csv walk-gyro.csv
convert absent.vrs --out NEW
transcode walk.MP4 --out NEW --overwrite
prepare table.csv --out NEW --frame-size 32 --no-imu --workers 2
prepare table.csv --out NEW --frame-size 32 --workers 1 --teacher-file teacher.safetensors --no-imu
teachers
finetune store --out NEW.safetensors --architecture student SETTINGS
extract store --teacher-file teacher.safetensors --name NEW --precision fp32 --overwrite
pretrain store --teacher small --out NEW.safetensors SETTINGS
distill store --teacher small --out NEW.safetensors SETTINGS
evaluate store --student student.safetensors --precision fp32
export student.safetensors --out NEW.pt2 --overwrite
measure --student student.safetensors --precision fp32 --batch-size 1 --repeats 2
predict walk.MP4 --imu walk-accl.csv walk-gyro.csv --student student.safetensors --precision fp32 --out NEW.csv
live walk.MP4 --imu walk-accl.csv walk-gyro.csv --student student.safetensors --precision fp32 --fast
synthesize NEW --train-acts 8 --test-acts 3
demo --quick --out NEW --precision fp32
"""


@pytest.fixture
def workplace(kitchen, store, taught):
    """The working folder of the commands in `POOL`."""
    shutil.move("s", "store")
    for part in ("", "-accl", "-gyro"):
        suffix = ".csv" if part else ".MP4"
        shutil.copy(Path(kitchen[0].video).parent / f"P01_101{part}{suffix}", f"walk{part}{suffix}")
    rows = [
        f"walk.MP4,{k / 2},{k / 2 + 1},{'cut' if k % 2 else 'wash'},{'test' if k > 5 else 'train'}" for k in range(8)
    ]
    Path("table.csv").write_text("\n".join(["video,start,stop,label,split", *rows]) + "\n")
    small = {"frames": 3, "size": 24, "seconds": CLIP_SECONDS, "width": 8, "pool": 1, "progress": False}
    teachers.load("x3d_m", class_names=store.class_names, **small).save("teacher.safetensors")
    return taught


def interrupted(words, moment):
    """Run a command, and press Ctrl-C after a time; returns exit code, what it printed, and the seconds it took."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "MPLBACKEND": "agg"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "stdin": subprocess.DEVNULL}
    call = [sys.executable, "-c", BEGIN, *words]
    with subprocess.Popen(call, env=environment, start_new_session=True, **pipes) as process:
        process.stdout.read(1)
        begun = time.monotonic()
        try:
            text = process.communicate(timeout=moment)[0]
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to its children, too
            text = process.communicate(timeout=LIMIT)[0]
        return process.returncode, text.decode(errors="replace"), time.monotonic() - begun


@pytest.mark.slow("each command of the package, in a process of its own")
@pytest.mark.skipif(os.name == "nt", reason="Windows has no signals of processes")
def test_ctrl_c_at_random_moments(workplace):
    chance, lengths, faults = random.Random(os.environ.get("EGODISTILL_SEED", 0)), {}, []
    commands = POOL.replace("SETTINGS", SETTINGS).strip().splitlines()
    runs = int(os.environ.get("EGODISTILL_INTERRUPTS", len(commands)))
    for number, line in enumerate((commands * (1 + runs // len(commands)))[:runs]):
        moment = chance.random() * lengths.get(line, 6.0)
        new = f"new{number % len(commands)}-{chance.randrange(2)}"
        code, text, seconds = interrupted(line.replace("NEW", new).split(), moment)
        if seconds < moment:
            lengths[line] = 1.1 * seconds
        expected = (1,) if line.startswith("convert") else (0,)
        print(f"{number:4} {code:4} {moment:6.2f} s  {line}")
        if code not in (130, *expected) or "Traceback" in text or (code == 130 and "interrupted" not in text):
            faults.append(f"run {number}, {line}, {moment:.3f} s: exit code {code}\n{text}")
    assert not faults, "\n".join(faults)
