"""Windows and macOS, as far as Linux can simulate them (see foreign.py)."""

import json
import os
import runpy
import subprocess
import sys
import threading
import time
import types
from pathlib import Path

import foreign
import numpy as np
import pytest
import torch
from foreign import linux_only
from waiting import LIMIT

import egodistill
from egodistill import EgoDistill, data
from egodistill.engine import distributed
from egodistill.support import files
from egodistill.world import synthetic

ROOT = Path(egodistill.__file__).parent
LOCKS = [pytest.param(False, id="fcntl"), pytest.param(True, id="msvcrt", marks=linux_only)]


def lock_environment(tmp_path, msvcrt: bool) -> dict[str, str]:
    return foreign.environment(tmp_path / "foreign", foreign.MSVCRT) if msvcrt else dict(os.environ)


def python(script: str, *arguments, **options) -> subprocess.Popen:
    command = [sys.executable, "-c", script, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)


def ends_well(process: subprocess.Popen) -> str:
    """Wait for a process that has to succeed; return what it printed."""
    printed, errors = process.communicate(timeout=LIMIT)
    assert process.returncode == 0, errors
    return printed


@pytest.fixture(scope="module")
def world(once):
    few = {"train_acts": 8, "test_acts": 3, "train_wearers": 1, "size": (32, 32), "progress": False}
    return once("small-world", lambda folder: synthetic.render(folder / "world", **few))


def small_store(world, out) -> data.ClipStore:
    segments = data.read_epic_kitchens(world.annotations, world.root)
    return data.prepare(segments, out, frame_size=16, workers=1, progress=False)


# --- Locks

ADD = """
import sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from egodistill import data
from egodistill.support import files
assert (files.fcntl is None) is (sys.argv[2] == "msvcrt")
store, rank = data.ClipStore(sys.argv[3]), sys.argv[4]
ready = Path(sys.argv[3]).parent / f"ready-{rank}"
ready.touch()
while not ready.with_name(f"ready-{1 - int(rank)}").exists():
    time.sleep(0.001)
for k in range(25):
    store.add(f"t{rank}.{k}", (2,), "float32")
"""


@pytest.mark.parametrize("msvcrt", LOCKS)
def test_two_processes_that_add_to_a_store_lose_nothing(world, tmp_path, msvcrt):
    store, environment = small_store(world, tmp_path / "store"), lock_environment(tmp_path, msvcrt)
    before, kind = store.names, "msvcrt" if msvcrt else "fcntl"
    processes = [python(ADD, ROOT, kind, store.path, rank, env=environment) for rank in (0, 1)]
    for process in processes:
        ends_well(process)
    wanted = {f"t{rank}.{k}" for rank in (0, 1) for k in range(25)}
    assert set(data.ClipStore(store.path).names) == {*before, *wanted}


@linux_only
def test_two_machines_that_add_to_a_store_lose_nothing(world, tmp_path):
    """Their locks do not reach each other, as with NFS mounted with `nolock`."""
    store = small_store(world, tmp_path / "store")
    script = ADD.replace("assert", "files.fcntl.flock = lambda *_: None; assert")
    environments = [os.environ | {"RANK": f"{rank}", "WORLD_SIZE": "2"} for rank in (0, 1)]
    processes = [python(script, ROOT, "fcntl", store.path, rank, env=environments[rank]) for rank in (0, 1)]
    for process in processes:
        ends_well(process)
    assert {f"t{rank}.{k}" for rank in (0, 1) for k in range(25)} <= set(data.ClipStore(store.path).names)


HOLD = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from egodistill.support import files
with files.lock(Path(sys.argv[2], "lock")):
    print("held", flush=True)
    sys.stdin.readline()
"""
WAIT = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from egodistill.support import files
print("waits", flush=True)
with files.lock(Path(sys.argv[2], "lock")):
    Path(sys.argv[2], "held").touch()
"""


@pytest.mark.parametrize("msvcrt", LOCKS)
@pytest.mark.parametrize("killed", [False, True])
def test_two_processes_never_hold_a_lock_at_a_time(tmp_path, msvcrt, killed):
    """The second waits until the first lets go, or is killed."""
    environment = lock_environment(tmp_path, msvcrt)
    first = python(HOLD, ROOT, tmp_path, env=environment, stdin=subprocess.PIPE)
    assert first.stdout.readline() == "held\n"
    second = python(WAIT, ROOT, tmp_path, env=environment)
    assert second.stdout.readline() == "waits\n"
    time.sleep(0.1)
    assert not (tmp_path / "held").exists()
    if killed:
        first.kill()
    first.communicate("\n")
    ends_well(second)
    assert (tmp_path / "held").exists()


def test_no_lock_is_an_error(world, tmp_path, monkeypatch):
    store = small_store(world, tmp_path / "store")
    monkeypatch.setattr(files, "fcntl", None)
    monkeypatch.setattr(files, "msvcrt", None)
    with pytest.raises(data.DataError, match=r"store\.lock: cannot be locked, .* neither fcntl nor msvcrt"):
        store.add("t.feature", (2,), "float32")
    assert len(data.ClipStore(store.path)) == len(store)  # Reading needs none.


# --- Files that another process reads


def write_text(target):
    with files.atomic_write(target) as part:
        part.write_text("a", encoding="utf-8")


def write_json(target):
    files.write_json(target, {"a": 1})


@pytest.mark.parametrize("rename", [write_text, write_json])
def test_a_rename_that_is_refused_is_tried_again(tmp_path, monkeypatch, rename):
    target, real, refusals = tmp_path / "file.json", os.replace, []

    def refuse(*paths, times):
        if len(refusals) < times:
            refusals.append(paths)
            raise PermissionError(13, "Access is denied", *map(str, paths))
        real(*paths)

    monkeypatch.setattr(os, "replace", lambda *paths: refuse(*paths, times=2))
    rename(target)
    assert len(refusals) == 2 and target.exists()
    before = target.read_bytes()

    monkeypatch.setattr(os, "replace", lambda *paths: refuse(*paths, times=10**9))
    waits = []
    monkeypatch.setattr(files, "time", types.SimpleNamespace(sleep=waits.append))
    with pytest.raises((OSError, ValueError), match=r"file\.json.*Access is denied|Access is denied.*file\.json"):
        rename(target)
    assert 0.5 < sum(waits) < 5
    assert [file.name for file in tmp_path.iterdir()] == ["file.json"] and target.read_bytes() == before


def test_other_files_are_renamed_by_the_same_helper():
    """All but the helper's own two calls of os.replace."""
    for file in ROOT.glob("*.py"):
        text = file.read_text(encoding="utf-8").replace("checkpoints.rename(", "")  # names in a file of weights
        assert text.count("os.replace(") == 2 * (file.name == "files.py") and ".rename(" not in text, file


# --- Processors, processes, torchrun


def test_cores_are_those_of_the_process(monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    monkeypatch.setattr(os, "process_cpu_count", lambda: 3, raising=False)
    assert files.available_cores() == 3
    monkeypatch.delattr(os, "process_cpu_count")
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {5, 7}, raising=False)
    assert files.available_cores() == 2
    monkeypatch.delattr(os, "sched_getaffinity")
    assert files.available_cores() == 64


def test_as_many_workers_as_cores_of_the_process(world, tmp_path, monkeypatch):
    workers = []
    monkeypatch.setattr(files, "available_cores", lambda: 3)
    monkeypatch.setattr(data, "fill_in_processes", lambda store, jobs, count: workers.append(count))
    segments = data.read_epic_kitchens(world.annotations, world.root)
    data.prepare(segments, tmp_path / "store", frame_size=16, progress=False)
    assert workers == [3]

    class Counted(synthetic.Processes):
        def run(self):
            workers.append(self.workers)

    monkeypatch.setattr(synthetic, "Processes", Counted)
    synthetic.render(tmp_path / "w", train_acts=3, test_acts=3, train_wearers=3, size=(32, 32), progress=False)
    assert workers == [3, 3]


@pytest.mark.parametrize(("value", "wanted"), [(None, True), ("1", True), ("0", False)])
def test_the_store_of_torchrun_uses_libuv_as_torch_does(monkeypatch, value, wanted):
    made = []

    def store(*arguments, **options):
        made.append(options)
        return torch.distributed.HashStore()

    monkeypatch.setattr(torch.distributed, "TCPStore", store)
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", "1")
    monkeypatch.delenv("USE_LIBUV", raising=False)
    if value is not None:
        monkeypatch.setenv("USE_LIBUV", value)
    distributed.torchrun_store()
    assert [options["use_libuv"] for options in made] == [wanted]


# --- Clocks


def test_clocks_that_stand_still(world, tmp_path, monkeypatch, capsys):
    """An epoch and a short preparation take 0.0 s by a clock that moves in 15.6 ms."""
    monkeypatch.setattr(time, "monotonic", lambda: 1000.0)
    segments = data.read_epic_kitchens(world.annotations, world.root)
    raised = []
    monkeypatch.setattr(threading, "excepthook", raised.append)
    store = data.prepare(segments, tmp_path / "store", frame_size=32, workers=1, progress=True)
    said = capsys.readouterr().err
    clips = len(store.clips)  # a long act has two
    assert not raised and f"{clips}/{clips} clips" in said and "inf" not in said
    student = EgoDistill(
        len(store.class_names),
        feature_dim=8,
        image_encoder="resnet10x8",
        image_weights=None,
        imu_encoder=None,
        hidden=8,
        frame_size=32,
    )
    (epoch,) = egodistill.finetune(student, store, epochs=1, batch_size=4, progress=False)
    assert epoch["clips_per_second"] > 0


# --- The whole road

ROAD = """
import hashlib, json, sys, time
from pathlib import Path
if __name__ == "__main__":
    sys.path.insert(0, sys.argv[1])
import egodistill
from egodistill import EgoDistill, data, synthetic, teachers
import torch

def road(out, *ranks):
    torch.set_num_threads(1)
    if 0 in ranks:
        world = synthetic.render(
            out / "world", train_acts=12, test_acts=6, train_wearers=2, size=(32, 32), progress=False
        )
        segments = data.read_epic_kitchens(world.annotations, world.root)
        data.prepare(
            segments, out / "store", num_frames=1, frame_size=32, clip_frames=16, clip_size=32, workers=2,
            progress=False,
        )
        (out / "prepared").touch()
    while not (out / "prepared").exists():
        time.sleep(0.01)
    store = data.ClipStore(out / "store")
    torch.manual_seed(0)
    teacher = teachers.load(
        "x3d_m", None, len(store.class_names), class_names=store.class_names, width=8, depth_factor=0.5,
        feature_dim=16, pool=1, seconds=64 / 30, progress=False,
    )
    for teacher.name in ("x3d", "again"):
        for rank in ranks:
            teachers.extract(teacher, store, batch_size=2, rank=rank, world_size=2, progress=False)
    if 0 not in ranks:
        return
    while not all(store.done(f"{name}.{what}").all() for name in ("x3d", "again") for what in ("feature", "logits")):
        time.sleep(0.01)
    student = EgoDistill(
        len(store.class_names), feature_dim=16, image_encoder="resnet10x8", image_weights=None, hidden=16,
        frame_size=32,
    )
    history = egodistill.distill(
        student, store.split("train"), teacher="x3d", epochs=2, batch_size=6, checkpoint=out / "s.safetensors.training",
        checkpoint_seconds=0.0, progress=False, precision="fp32",
    )
    student.save(out / "student.safetensors")
    found = egodistill.evaluate(EgoDistill.load(out / "student.safetensors"), store.split("test"), progress=False)
    files = sorted([*out.glob("store/shards/*/*.npy"), *out.glob("world/P*/*/*")])
    (out / "results.json").write_text(json.dumps({
        "losses": [epoch["loss"] for epoch in history],
        "scores": found.scores.tolist(),
        "files": {str(file.relative_to(out)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files},
    }), encoding="utf-8")

if __name__ == "__main__":
    road(Path(sys.argv[2]), int(sys.argv[3]))
"""


@pytest.mark.slow("every step on a simulated other system")
@linux_only
def test_the_whole_road_gives_there_what_it_gives_here(tmp_path):
    script = tmp_path / "road.py"
    script.write_text(ROAD, encoding="utf-8")
    # A text file that is opened in the system's own encoding is an error, too.
    names = (
        "data",
        "store",
        "annotations",
        "video",
        "imu",
        "files",
        "synthetic",
        "teachers",
        "training",
        "checkpoints",
    )
    own = ["__main__", "egodistill", *(f"egodistill.{name}" for name in names)]
    environment = foreign.environment(
        tmp_path / "foreign",
        PYTHONWARNDEFAULTENCODING="1",
        PYTHONWARNINGS=",".join(f"error::EncodingWarning:{module}" for module in own),
        OMP_NUM_THREADS="1",
    )
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir(), there.mkdir()
    command = [sys.executable, str(script), str(ROOT), str(there)]
    options = {"env": environment, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    processes = [subprocess.Popen([*command, rank], **options) for rank in "01"]
    try:
        for process in processes:
            ends_well(process)
    finally:
        for process in processes:
            process.kill()
    runpy.run_path(str(script))["road"](here, 0, 1)
    results = [json.loads((out / "results.json").read_text(encoding="utf-8")) for out in (here, there)]
    assert results[0] == results[1]
    assert {f"store/shards/00000/{name}.npy" for name in ("rows", "imu", "x3d.logits", "again.feature")} <= results[0][
        "files"
    ].keys()
    assert np.isfinite(results[0]["losses"]).all() and len(results[0]["losses"]) == 2


CHECK = """
import os, signal, sys, time
assert not any(hasattr(os, name) for name in ("posix_fallocate", "sched_getaffinity", "setpriority"))
assert not hasattr(signal, "pthread_sigmask")
assert all(64 * clock() % 1 == 0 for clock in (time.time, time.monotonic, time.perf_counter, time.process_time))
try:
    import fcntl
except ModuleNotFoundError:
    import msvcrt
file = open(sys.argv[1], "a")
assert (file.encoding, sys.stdout.encoding, sys.flags.utf8_mode) == ("ANSI_X3.4-1968", "cp1252", 0)
twin = open(sys.argv[1], "a")
msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
try:
    msvcrt.locking(twin.fileno(), msvcrt.LK_NBLCK, 1)
    raise AssertionError
except PermissionError:
    msvcrt.locking(file.fileno(), msvcrt.LK_UNLCK, 1)
    msvcrt.locking(twin.fileno(), msvcrt.LK_NBLCK, 1)
for call in (os.remove, os.unlink, lambda path: os.replace(path, path + "2"), lambda path: os.rename(__file__, path)):
    try:
        call(sys.argv[1])
        raise AssertionError
    except PermissionError:
        pass
file.close(), twin.close()
import mmap
with open(sys.argv[1], "r+b") as file:
    file.write(b"mapped")
    file.flush()
    mapped = mmap.mmap(file.fileno(), 0)
try:
    os.remove(sys.argv[1])
    raise AssertionError
except PermissionError:
    mapped.close()
os.remove(sys.argv[1])
"""


@linux_only
def test_the_simulation_is_as_described(tmp_path):
    script = tmp_path / "check.py"
    script.write_text(CHECK, encoding="utf-8")
    command = [sys.executable, str(script), str(tmp_path / "file")]
    done = subprocess.run(command, env=foreign.environment(tmp_path / "foreign"), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
