"""Atomic writes, progress, reading ahead, the same run. Locks between processes are in test_portability.py."""

import contextlib
import errno
import io
import json
import math
import os
import shutil
import stat
import subprocess
import sys
import threading
import time
import types
from pathlib import Path

import pytest
from foreign import linux_only
from waiting import LIMIT, until

import egodistill
from egodistill import DataError, EgoDistillOSError
from egodistill.support import files, holders


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_file_appears_whole_or_not_at_all(tmp_path):
    path = tmp_path / "new" / "results.csv"
    with files.atomic_write(path) as part:
        part.write_text("a")
        assert not path.exists()
    assert path.read_text() == "a"
    with pytest.raises(KeyError), files.atomic_write(path) as part:
        part.write_text("half")
        raise KeyError
    assert path.read_text() == "a" and os.listdir(path.parent) == ["results.csv"]


def test_a_reader_that_is_gone_is_not_the_disk(tmp_path):
    """The block prints what it writes, as in `egodistill predict ... --out a.csv | head -1`."""
    with pytest.raises(BrokenPipeError), files.disk_errors(tmp_path / "a.csv"):
        raise BrokenPipeError(errno.EPIPE, "Broken pipe")


def test_a_full_disk_is_told_with_the_file(tmp_path, full_disk):
    """The system's own words name no file."""
    path = tmp_path / "results.json"
    path.write_text("old")
    words = r"/results\.json: cannot be written: File too large; .* MB are free"
    with full_disk(100), pytest.raises(EgoDistillOSError, match=words), files.atomic_write(path) as part:
        part.write_text("new" * 100)
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_an_error_about_another_file_keeps_its_own_words(tmp_path):
    """What a block reads is not what it writes."""
    with pytest.raises(FileNotFoundError, match=r"input\.txt") as error, files.atomic_write(tmp_path / "out.txt"):
        open(tmp_path / "elsewhere" / "input.txt")
    assert not isinstance(error.value, EgoDistillOSError)


def test_parts_of_killed_processes_are_removed(tmp_path):
    for name in (".a.npy.123.part", ".a.npy.45.part", ".b.npy.123.part", "a.npy"):
        (tmp_path / name).touch()
    files.remove_parts(tmp_path / "a.npy")
    assert sorted(os.listdir(tmp_path)) == [".b.npy.123.part", "a.npy"]


def start(script, path):
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    environment = os.environ | {"PYTHONPATH": str(Path(egodistill.__file__).parent)}
    return subprocess.Popen([sys.executable, "-c", script, str(path)], env=environment, **pipes)


def end(process):
    _, errors = process.communicate(timeout=LIMIT)
    assert process.returncode == 0, errors
    return errors


WRITER = """
import sys
from egodistill.support import files
with files.atomic_write(sys.argv[1]) as part:
    part.write_text("half")
    print("writing", flush=True)
    sys.stdin.readline()
"""


def test_a_killed_writer_leaves_nothing_for_long(tmp_path):
    """Its temporary file is removed by the next writer of the same file; that of a running process stays."""
    path = tmp_path / "a [1].json"
    with start(WRITER, path) as other:
        assert other.stdout.readline() == "writing\n"
        (part,) = tmp_path.iterdir()
        files.write_json(path, 1)
        assert part.read_text() == "half" and files.read_json(path) == 1
        other.kill()
    assert part.exists()
    files.write_json(path, 2)
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ({"a": [1.0, {"b": math.nan}]}, r"a\[1\]\.b is nan"),
        ([{"x": 1}, {"x": -math.inf}], r"\[1\]\.x is -inf"),
        (math.inf, "the value is inf"),
    ],
)
def test_no_number_that_json_lacks_is_written(tmp_path, value, told):
    path = tmp_path / "a.json"
    files.write_json(path, {"old": 1})
    with pytest.raises(DataError, match=rf"a\.json: not written: {told}$"):
        files.write_json(path, value)
    assert files.read_json(path) == {"old": 1}


HOLDER = """
import sys
from egodistill.support import files
with files.work_lock(sys.argv[1]):
    print("held", flush=True)
    sys.stdin.readline()
"""


@pytest.mark.parametrize("killed", [True, False])
def test_a_work_lock_is_held_by_one_process(tmp_path, killed, monkeypatch):
    path, entered, said = tmp_path / "run", threading.Event(), io.StringIO()
    monkeypatch.setattr(sys, "stderr", said)

    def enter():
        with files.work_lock(path):
            entered.set()

    other = start(HOLDER, path)
    assert other.stdout.readline() == "held\n"
    with pytest.raises(DataError, match="busy"), files.work_lock(path, "busy"):
        pass
    (waiter := threading.Thread(target=enter, daemon=True)).start()
    until(lambda: "run: another process works on it; waiting" in said.getvalue())
    assert not entered.wait(0.1)
    if killed:
        other.kill()
    other.communicate()
    waiter.join(LIMIT)
    assert entered.is_set() and list(tmp_path.iterdir()) == []
    with files.work_lock(path, "busy"), files.work_lock(tmp_path / "other", "busy"):
        pass


def test_a_lock_on_a_removed_file_does_not_count(tmp_path, monkeypatch):
    """A process opens the lock file just before its holder removes it; a third one makes a new file."""
    lock, opened = files.system_lock, []

    def slow(path, *options):
        context = lock(path, *options)
        if not opened:
            opened.append(path)

            @contextlib.contextmanager
            def replaced():
                with context as file:
                    path.unlink()
                    path.touch()
                    yield file

            return replaced()
        return context

    monkeypatch.setattr(files, "system_lock", slow)
    with files.work_lock(tmp_path / "run", "busy"):
        monkeypatch.undo()
        with pytest.raises(DataError, match="busy"), files.work_lock(tmp_path / "run", "busy"):
            pass


@pytest.fixture
def no_locks(request, monkeypatch):
    """A file system without locks."""

    def refuse(file, operation):
        raise OSError(getattr(errno, getattr(request, "param", "ENOLCK")), "no locks")

    monkeypatch.setattr(files.fcntl, "flock", refuse)


in_each_way = pytest.mark.parametrize("no_locks", ["ENOLCK", "EOPNOTSUPP", "ENOSYS"], indirect=True)


class WaitClock:
    """A clock of waits that only their steps move, by a second; `during(now)` is what happens in each."""

    def __init__(self, monkeypatch, during):
        self.now, self.during = 0, during
        monkeypatch.setattr(holders, "time", self)

    def monotonic(self):
        return self.now

    def sleep(self, seconds):
        self.now += 1
        self.during(self.now)


@linux_only
@in_each_way
def test_files_are_written_where_there_are_no_locks(tmp_path, no_locks, monkeypatch):
    """A temporary file stays then, because its writer may be alive; those of two machines have two names."""
    monkeypatch.setattr(os, "getpid", lambda: 7)
    path, other = tmp_path / "a.json", tmp_path / ".a.json.7.part"
    other.touch()
    with files.atomic_write(path) as part, files.atomic_write(path) as second:
        assert part != second
        part.write_text("1")
        second.write_text("2")
    assert files.read_json(path) == 1 and sorted(tmp_path.iterdir()) == [other, path]


@linux_only
@in_each_way
def test_a_lock_holds_where_there_are_none(tmp_path, no_locks, monkeypatch, capsys):
    path, seen = tmp_path / "store.lock", []

    def during(now):
        seen.append(capsys.readouterr().err)
        if now == 100:
            raise KeyboardInterrupt

    WaitClock(monkeypatch, during)
    with files.lock(path):
        with pytest.raises(KeyboardInterrupt), files.lock(path):
            pass
        assert len(seen) == 100
    assert [file.name for file in tmp_path.iterdir()] == ["store.lock"]
    told = {second: said for second, said in enumerate(seen) if said}  # after ten seconds, and a minute later
    assert list(told) == [11, 72], told
    assert all(f".store.lock.held: waiting for process {os.getpid()} on" in said for said in told.values())


WITHOUT_LOCKS = """
import errno, os, sys, time
from egodistill.support import files
def refuse(file, operation):
    raise OSError(errno.ENOLCK, "no locks")
files.fcntl.flock = refuse
"""
KEEPER = (
    WITHOUT_LOCKS
    + """
with files.lock(sys.argv[1]):
    print("held", flush=True)
    sys.stdin.readline()
"""
)
# Hold the lock for a moment, many times; a second holder would find the folder.
TAKER = (
    WITHOUT_LOCKS
    + """
for _ in range(5):
    with files.lock(sys.argv[1]):
        os.mkdir(sys.argv[1] + ".busy")
        time.sleep(0.01)
        os.rmdir(sys.argv[1] + ".busy")
"""
)


@linux_only
@pytest.mark.parametrize("reaped", [True, False])
def test_the_lock_of_a_dead_process_is_taken_over_where_there_are_no_locks(
    tmp_path, no_locks, monkeypatch, capsys, reaped
):
    """Its file outlives it. A process that was killed stays in the process table until its parent asks for it."""
    path = tmp_path / "store.lock"
    keeper = start(KEEPER, path)
    assert keeper.stdout.readline() == "held\n"

    def during(now):
        if now == 20:
            keeper.kill()
            _ = keeper.wait() if reaped else os.waitid(os.P_PID, keeper.pid, os.WEXITED | os.WNOWAIT)

    clock = WaitClock(monkeypatch, during)
    with files.lock(path):
        assert 20 <= clock.now < 25
    keeper.communicate()
    assert f".store.lock.held: process {keeper.pid} on" in (said := capsys.readouterr().err) and "has ended" in said
    assert [file.name for file in tmp_path.iterdir()] == ["store.lock"]


@linux_only
def test_one_of_several_takes_the_lock_of_a_dead_process_over(tmp_path):
    path = tmp_path / "store.lock"
    keeper = start(KEEPER, path)
    assert keeper.stdout.readline() == "held\n"
    takers = [start(TAKER, path) for _ in range(4)]
    time.sleep(1)
    keeper.kill()
    keeper.communicate()
    assert sum("has ended" in end(taker) for taker in takers) == 1
    assert [file.name for file in tmp_path.iterdir()] == ["store.lock"]


@linux_only
def test_the_number_of_a_dead_process_may_belong_to_another(tmp_path, no_locks, monkeypatch, capsys):
    path, started = tmp_path / "store.lock", holders.started
    with monkeypatch.context() as patch:
        patch.setattr(holders, "started", lambda process: started(process) + "0")
        (tmp_path / ".store.lock.held").write_text(holders.this_process())
    with files.lock(path):
        pass
    assert "has ended" in capsys.readouterr().err


@linux_only
@pytest.mark.parametrize("holder", ["process 7 on node9\nanother 7 1 a\n", "process 7 on node9", ""])
def test_a_holder_of_another_machine_is_waited_for_as_long_as_it_gives_signs_of_life(
    tmp_path, no_locks, monkeypatch, capsys, holder
):
    """Also one of version 0.4, and one that was killed before it wrote its name."""
    held, path = tmp_path / ".store.lock.held", tmp_path / "store.lock"
    held.write_text(holder)
    alive = 2 * holders.PATIENCE

    def during(now):
        if now <= alive:
            os.utime(held, (now, now))

    clock = WaitClock(monkeypatch, during)
    name = "process 7 on node9" if holder else "an unknown process"
    words = rf"/\.store\.lock\.held: {name} has shown no sign of life for 5 minutes.* remove this file"
    with pytest.raises(DataError, match=words), files.lock(path):
        pass
    assert clock.now == pytest.approx(alive + holders.PATIENCE, abs=3)
    assert f".store.lock.held: waiting for {name}; if it has ended, remove this file" in capsys.readouterr().err
    assert held.read_text() == holder  # not ours


@linux_only
def test_a_holder_gives_signs_of_life(tmp_path, no_locks, monkeypatch):
    monkeypatch.setattr(holders, "BEAT", 0.01)
    held = tmp_path / ".store.lock.held"
    with files.lock(tmp_path / "store.lock"):
        for _ in range(2):
            os.utime(held, (0, 0))
            until(lambda: held.stat().st_mtime > 0)


@linux_only
def test_a_full_disk_leaves_no_holder(tmp_path, no_locks, full_disk):
    with full_disk(10), pytest.raises(EgoDistillOSError, match="held: cannot be written"), files.lock(tmp_path / "a"):
        pass
    with files.lock(tmp_path / "a"):
        pass


@linux_only
@in_each_way
def test_work_goes_on_with_a_warning_where_there_are_no_locks(tmp_path, no_locks, capsys):
    for busy in (None, "busy"):
        with files.work_lock(tmp_path / "run", busy):
            pass
        assert capsys.readouterr().err.count("run: its file system has no locks; let no other process") == 1
    assert list(tmp_path.iterdir()) == []


def test_json_files(tmp_path):
    path = tmp_path / "one.json"
    for value in ({"a": [1, None, "ä"]}, [{"a": 1}, {"b": 2}], []):
        files.write_json(path, value)
        assert files.read_json(path) == value
    files.write_json(path, [1, 2])
    assert path.read_text() == "[\n1,\n2\n]\n"
    path.write_text('{"a": ')
    with pytest.raises(DataError, match=r"one\.json: is damaged"):
        files.read_json(path)
    with pytest.raises(DataError, match=r"two\.json: cannot be read: No such file"):
        files.read_json(tmp_path / "two.json")


def test_lines_survive_an_incomplete_one(tmp_path):
    path = tmp_path / "notes.jsonl"
    assert list(files.read_lines(path)) == []
    files.append_line(path, {"a": 1})
    with open(path, "a") as file:
        file.write('{"b": ')  # a process that was killed, or a full disk
    files.append_line(path, {"c": 3})
    assert list(files.read_lines(path)) == [{"a": 1}, {"c": 3}]


def test_the_share_of_a_job_that_the_environment_names(monkeypatch):
    monkeypatch.delenv("RANK", raising=False)
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert files.environment_share() == {"rank": 0, "world_size": 1}
    monkeypatch.setenv("RANK", "2")
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert files.environment_share() == {"rank": 2, "world_size": 4}
    files.check_share(**files.environment_share())
    with pytest.raises(DataError, match="rank 4 is not one of the 4"):
        files.check_share(4, 4)
    monkeypatch.setenv("RANK", "two")
    for rank, size, why in (
        ("two", "4", "RANK='two' and WORLD_SIZE='4' must be integers"),
        ("", "2", "RANK='' and WORLD_SIZE='2' .* set both"),
        ("1", "", "RANK='1' and WORLD_SIZE='' .* set both"),
        ("4", "4", "rank 4 is not one of the 4"),
        ("-1", "4", "rank -1 is not one of the 4"),
    ):
        monkeypatch.setenv("RANK", rank)
        monkeypatch.setenv("WORLD_SIZE", size)
        with pytest.raises(DataError, match=why):
            files.environment_share()
    monkeypatch.setenv("RANK", "")
    monkeypatch.setenv("WORLD_SIZE", "")
    assert files.environment_share() == {"rank": 0, "world_size": 1}


def test_differences_are_those_of_the_json(tmp_path):
    """A note on disk has lists for tuples and texts for paths' keys: that is no difference."""
    before = {"sizes": [1, 2], "rate": 0.5, "gone": 1}
    assert files.differences(before, {"sizes": (1, 2), "rate": 0.5, "gone": 1}) == {}
    now = {"sizes": (1, 3), "rate": 0.5, "new": None, "more": 2}
    assert files.differences(before, now) == {"sizes": ([1, 2], [1, 3]), "more": (None, 2), "gone": (1, None)}
    nested = {"scale": {"width": 8, "depths": [1, 1]}, "none": {}}
    assert files.differences(nested, {"scale": {"width": 9, "depths": (1, 1)}, "none": {}}) == {"scale.width": (8, 9)}
    files.require_same_run("note.json", before, before, "")
    with pytest.raises(DataError, match=r"note\.json: .*sizes was \[1, 2\] and is now \[1, 3\].*Give another folder\."):
        files.require_same_run("note.json", before, now, "Give another folder.")


def test_reading_ahead_reads_one_ahead_and_no_more(monkeypatch):
    begun, read, asked, now = [], [], threading.Event(), [0.0]

    def monotonic():
        asked.set()
        return now[0]

    def slow(item):
        if item == 0:
            assert asked.wait(LIMIT)
            now[0] += 3.0
        read.append(item)
        return item * item

    monkeypatch.setattr(files, "time", types.SimpleNamespace(monotonic=monotonic))
    waits = []
    for k, (value, waited) in enumerate(files.read_ahead(range(6), slow, lambda: begun.append(threading.get_ident()))):
        assert value == k * k
        until(lambda: len(read) == min(k + 2, 6))  # noqa: B023
        time.sleep(0.01)  # in which a reader without a bound would go on
        assert read == list(range(min(k + 2, 6)))
        waits.append(waited)
    assert waits == [3.0, 0, 0, 0, 0, 0]
    assert len(begun) == 1 and begun[0] != threading.get_ident()
    assert list(files.read_ahead([], slow)) == []


def test_an_error_while_reading_ahead_comes_in_its_place():
    def read(item):
        if item == 2:
            raise OSError("the third is broken")
        return item

    seen = []
    with pytest.raises(OSError, match="the third is broken"):
        for value, _ in files.read_ahead(range(5), read):
            seen.append(value)
    assert seen == [0, 1]


def test_progress_in_a_terminal_and_in_a_log(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    terminal, log = Terminal(), io.StringIO()
    for stream in (terminal, log):
        monkeypatch.setattr(sys, "stderr", stream)
        now[0] = 100.0
        with files.Progress("extract", 100, done=20) as bar:
            for _ in range(40):
                now[0] += 1
                bar.step(2, "loss 0.5")
    line = "extract: 100/100 clips, 2.0 clips/s, 0:00 left"
    lines = terminal.getvalue().split("\r")
    assert lines[1].strip() == "extract: 22/100 clips, 2.0 clips/s, 0:39 left, loss 0.5"
    assert (
        lines[-1].startswith(line)
        and lines[-1].endswith("\n")
        and len({len(line.rstrip("\n")) for line in lines[1:]}) == 1
    )
    assert log.getvalue().splitlines() == [f"{line}, loss 0.5"]  # less than a minute: the last state alone
    hidden = io.StringIO()
    monkeypatch.setattr(sys, "stderr", hidden)
    with files.Progress("extract", 100, show=False) as bar:
        bar.step(100)
    assert hidden.getvalue() == ""


def test_progress_without_stderr(monkeypatch):
    """As under pythonw on Windows."""
    monkeypatch.setattr(sys, "stderr", None)
    with files.Progress("extract", 2) as bar:
        bar.step(2)


def test_a_device_is_written_to_and_not_replaced(tmp_path):
    device = tmp_path / "null"
    try:
        os.mknod(device, stat.S_IFCHR | 0o666, os.stat(os.devnull).st_rdev)
    except (PermissionError, AttributeError, OSError):
        device = Path(os.devnull)  # nobody else can replace it
    files.write_json(device, [1, 2])
    assert device.is_char_device() and os.stat(device).st_rdev == os.stat(os.devnull).st_rdev


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes")
def test_a_pipe_gets_the_result(tmp_path):
    pipe, found = tmp_path / "pipe", []
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: found.append(pipe.read_text()))
    reader.start()
    files.write_json(pipe, {"a": 1})
    reader.join(LIMIT)
    assert json.loads(found[0]) == {"a": 1} and pipe.is_fifo()


def test_a_link_stays_and_its_target_is_written(tmp_path):
    target, link = tmp_path / "target.json", tmp_path / "link.json"
    target.write_text("{}")
    link.symlink_to(target)
    files.write_json(link, {"a": 1})
    assert link.is_symlink() and files.read_json(target) == {"a": 1}


def test_a_folder_is_not_replaced(tmp_path):
    (tmp_path / "out").mkdir()
    with pytest.raises(DataError, match="out: not a regular file"):
        files.write_json(tmp_path / "out", {})
    assert list(tmp_path.iterdir()) == [tmp_path / "out"]


def test_outputs_are_checked_before_any_work(tmp_path):
    table = tmp_path / "table.csv"
    table.write_text("video,start\n")
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "store.json").write_text("{}")
    (tmp_path / "empty").touch()
    (tmp_path / "link").symlink_to(table)
    refused = {
        "store": "a folder, not a file",
        "store/store.json": "inside the clip store",
        "store/new.json": "inside the clip store",
        "table.csv/out.json": "is not a writable folder",
        "link": "also an input",
        "foreign": "already exists and is not an earlier result; give another path, or --overwrite",
    }
    (tmp_path / "foreign").write_text("my thesis")
    for name, why in refused.items():
        with pytest.raises(DataError, match=why):
            files.check_output(tmp_path / name, [table, "nonsense"], ours=[b"format"])
    for name in ("empty", "new", "new/folder/out.json"):
        files.check_output(tmp_path / name, [table], ours=[b"format"])
    assert not (tmp_path / "new").exists()
    (tmp_path / "foreign").write_text('{"format": 1}')
    files.check_output(tmp_path / "foreign", ours=[b"format"])
    files.check_output(table, ours=[b"format"], overwrite=True)
    with pytest.raises(DataError, match="also an input"):
        files.check_output(table, [table], overwrite=True)


def test_an_output_is_apart_from_inputs_stores_and_recordings(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("walk.mp4", "walk.csv", "run-accl.csv", "store/store.json", "neon/imu.csv", "neon/x.mp4"):
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).write_text("mine")
    Path("neon/world_timestamps.csv").touch()
    Path("link.mp4").symlink_to("walk.mp4")
    os.link("walk.mp4", "twin.mp4")
    Path("films").symlink_to("neon")
    words = {"link.mp4": "also an input", "twin.mp4": "also an input", "./store/../walk.mp4": "also an input"}
    words |= {"neon": "Neon", "neon/new/offsets.csv": "Neon", "films/copy.mp4": "Neon", "store/in/x": "clip store"}
    for name, word in words.items():
        with pytest.raises(DataError, match=rf"^{name}: .*{word}"):
            files.require_apart(name, ["walk.mp4", "nonsense", ""])
    for name in ("store", "new", "walk.csv", "walk2.mp4"):  # a store is continued
        files.require_apart(name, ["walk.mp4"])
    for name, video in (("walk.csv", "walk.mp4"), ("run-accl.csv", "./run.mp4")):
        with pytest.raises(DataError, match="may be the IMU of"):
            files.check_output(name, [video], overwrite=True)
    files.check_output("walk.csv", ["walk.mp4"], ours=[b"mine"])  # an earlier result
    Path("walk.csv").write_text("start,stop,class_1,score_1\n")  # `predict` wrote it there
    with pytest.raises(DataError, match=r"walk\.csv: already exists; give another path, or --overwrite"):
        files.check_output("walk.csv", ["walk.mp4"], ours=None)


def test_the_rights_of_an_output_are_those_of_its_folder(tmp_path, monkeypatch):
    (tmp_path / "kept").mkdir()
    monkeypatch.setattr(files.os, "access", lambda path, mode: Path(path) != tmp_path / "kept")
    files.require_writable(tmp_path / "store")
    files.require_writable(os.devnull)
    for name in ("kept", "kept/new/store"):
        with pytest.raises(DataError, match=rf"{name}: cannot be written, because .*kept is not a writable folder"):
            files.require_writable(tmp_path / name)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written_is_told_before_any_work(tmp_path):
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(DataError, match="not a writable folder"):
            files.check_output(tmp_path / "out.json")
    finally:
        tmp_path.chmod(0o700)


def test_a_mark_anywhere_in_the_first_megabyte_makes_a_file_an_earlier_result(tmp_path):
    file = tmp_path / "a.json"
    for before, ours in ((0, True), (3000, True), ((1 << 20) - 4, True), (1 << 20, False)):
        file.write_bytes(b"x" * before + b"mark" + b"y" * 10)
        if ours:
            files.check_output(file, ours=[b"other", b"mark"])
        else:
            with pytest.raises(DataError, match="not an earlier result"):
                files.check_output(file, ours=[b"other", b"mark"])


def test_free_space_is_in_millions_of_bytes(tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)._replace(free=123_456_789)
    monkeypatch.setattr(files.shutil, "disk_usage", lambda folder: usage)
    assert files.free_megabytes(tmp_path / "not" / "there.txt") == pytest.approx(123.456789)


def test_speed_and_time_left_are_those_of_this_run(monkeypatch, capsys):
    """80 of 100 were done before; 10 more took 4 s."""
    now = [100.0]
    monkeypatch.setattr(files.time, "monotonic", lambda: now[0])
    bar = files.Progress("extract", 100, unit="clips", done=80)
    now[0] += 4.0
    bar.step(10, "loss 1.5")
    bar.close()
    assert capsys.readouterr().err == "extract: 90/100 clips, 2.5 clips/s, 0:04 left, loss 1.5\n"


@pytest.mark.parametrize(
    ("before", "now", "expected"),
    [
        ({"a": 1, "b": 2}, {"a": 1, "b": 3}, {"b": (2, 3)}),
        ({"a": 1, "b": 2}, {"a": 1}, {"b": (2, None)}),
        ({"a": 1}, {"a": 1, "b": 2}, {"b": (None, 2)}),
        ({"a": {}}, {}, {"a": ({}, None)}),
        ({"a": {}}, {"a": {"b": 1}}, {"a.b": (None, 1), "a": ({}, None)}),
        ({"a": {"b": {"c": [1, 2]}}}, {"a": {"b": {"c": (1, 3)}}}, {"a.b.c": ([1, 2], [1, 3])}),
        ({"a": [1, 2]}, {"a": (1, 2)}, {}),
        ({"a": {"b": 1, "c": 2}}, {"a": {"c": 2, "b": 1}}, {}),
    ],
)
def test_settings_that_differ_are_named_with_both_values(before, now, expected):
    assert files.differences(before, now) == expected
    if expected:
        with pytest.raises(DataError, match=r"^here: was begun with other settings: .*\. Do this\.$"):
            files.require_same_run("here", before, now, "Do this.")
    else:
        files.require_same_run("here", before, now, "Do this.")


def test_five_differences_are_named_and_the_rest_counted():
    before, now = ({str(k): k + shift for k in range(8)} for shift in (0, 1))
    with pytest.raises(DataError) as error:
        files.require_same_run("here", before, now, "Go.")
    assert [f"{k} was {k} and is now {k + 1}" in str(error.value) for k in range(8)] == 5 * [True] + 3 * [False]
    assert "; and 3 more. Go." in str(error.value)


def test_a_signature_covers_size_beginning_and_end(tmp_path):
    path, content = tmp_path / "video.mp4", bytearray(range(256)) * 400
    path.write_bytes(content)
    before = files.signature(path)
    assert before.startswith("102400 bytes, ")
    for place in (0, (1 << 14) - 1, len(content) - (1 << 14), len(content) - 1):
        changed = content.copy()
        changed[place] ^= 1
        path.write_bytes(changed)
        assert files.signature(path) != before, place
    path.write_bytes(content)
    assert files.signature(path) == before
    path.write_bytes(content[:-1])
    assert files.signature(path) != before


def test_lines_without_one_of_the_fields_are_left_out(tmp_path):
    path = tmp_path / "notes.jsonl"
    path.write_text('{"a": 1}\n{"b": 2}\n{"a": 3, "b": 4, "c": 5}\n["a", "b"]\n"a b"\n')
    assert list(files.read_lines(path, "a", "b")) == [{"a": 3, "b": 4, "c": 5}]
    assert list(files.read_lines(path, "a")) == [{"a": 1}, {"a": 3, "b": 4, "c": 5}]
    assert len(list(files.read_lines(path))) == 3


@pytest.mark.skipif(not Path("/proc/loadavg").exists(), reason="only Linux counts running programs")
def test_a_busy_program_is_noticed():
    busy = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        until(files.other_programs_run)
    finally:
        busy.kill()
        busy.wait()


@pytest.mark.parametrize(("content", "busy"), [("0.1 0.2 0.3 1/90 4", False), ("9 9 9 3/90 4", True), ("", False)])
def test_running_programs_are_those_beside_this_one(content, busy, monkeypatch, tmp_path):
    (tmp_path / "loadavg").write_text(content)
    monkeypatch.setattr(files, "open", lambda path, **options: open(tmp_path / "loadavg", **options), raising=False)
    assert files.other_programs_run() == busy


@pytest.mark.parametrize("link", [os.symlink, os.link], ids=["symbolic", "hard"])
def test_a_file_of_ones_own_keeps_its_mode(tmp_path, link):
    other, own = tmp_path / "other", tmp_path / "own"
    other.write_text("text")
    other.chmod(0o664)
    link(other, own)
    files.unshare_file(own)
    assert not own.is_symlink() and not own.samefile(other) and own.read_text() == "text"
    assert stat.S_IMODE(own.stat().st_mode) == 0o664


def test_a_lock_is_a_file_of_its_own(tmp_path):
    path, other = tmp_path / "store.lock", tmp_path / "other"
    path.symlink_to(other)
    with files.lock(path):
        assert path.is_file() and not path.is_symlink() and not other.exists()
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe")  # opening it would wait for ever
        with pytest.raises(DataError, match="pipe: a pipe, not a regular file"), files.lock(tmp_path / "pipe"):
            pass
