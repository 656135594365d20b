"""What is killed at any moment of writing has happened, or has not; the same call again ends as if nothing had been."""

import contextlib
import dataclasses
import os
import shutil
import signal
import sys
import warnings

import numpy as np
import pytest
from painted import OPTIONS, files_of, held

from egodistill import data
from egodistill.datasets.store_files import StoreFiles, lock_file, rebuild
from egodistill.support import files

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork and SIGKILL")

MOMENTS = 20  # of each operation
CHANGES = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link", "os.symlink", "os.truncate", "os.utime"}
FOREIGN = ("mine.txt", "shards/mine/energy.npy", "shards/00042/energy.npy", "shards/00024/mine.npy", "index/mine.3.npy")


def prepare(segments, path, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return data.prepare(segments, path, **OPTIONS | options)


def dies_at(number, report=None):
    """Kill this process before it changes the disk for the `number`-th time; write the count of changes to `report`."""
    count, pwrite = 0, os.pwrite

    def changes():
        nonlocal count
        count += 1
        if report is not None:
            os.truncate(report, count)
        elif count == number:
            os.kill(os.getpid(), signal.SIGKILL)

    def heard(event, arguments):
        if event in CHANGES or (event == "open" and arguments[2] & (os.O_WRONLY | os.O_RDWR)):
            if report is None or arguments[0] != str(report):
                changes()

    def written(*arguments):
        changes()
        return pwrite(*arguments)

    os.pwrite = written
    sys.addaudithook(heard)


def in_child(work, *moment):
    """Do it in a process that dies; return whether it did."""
    child = os.fork()
    if child == 0:
        with contextlib.suppress(BaseException):
            dies_at(*moment)
            work()
        os._exit(0)
    return os.waitpid(child, 0)[1] == signal.SIGKILL


def disturbed(work, path, tmp_path):
    """Yield copies of a folder in each of which the work was killed at another moment, with foreign files."""
    for name in FOREIGN:
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_text("mine")
    report, whole = tmp_path / "report", tmp_path / "whole"
    report.touch()
    shutil.copytree(path, whole)
    assert not in_child(lambda: work(whole), 0, report)
    total = report.stat().st_size
    assert total >= 3
    for number in np.unique(np.linspace(1, total, MOMENTS).round().astype(int)).tolist():
        copy = shutil.copytree(path, tmp_path / f"killed at {number} of {total}")
        assert in_child(lambda copy=copy: work(copy), number)
        assert all((copy / name).read_text() == "mine" for name in FOREIGN)
        yield copy
        assert all((copy / name).read_text() == "mine" for name in FOREIGN)
        shutil.rmtree(copy)


def assert_intact(path):
    assert not [name for name, rows in data.ClipStore(path, unfinished=True).verify() if rows]


def rows_of(path):
    """The clips that are finished: {file and start: bytes of all arrays}."""
    store = data.ClipStore(path, unfinished=True)
    names = [(clip["video"], clip["start"]) for clip in store.clips]
    return {name: [store.read(one, row).tobytes() for one in store.specs] for row, name in enumerate(names)}


def test_an_edit(kitchen, store, tmp_path):
    new = dataclasses.replace(kitchen[0], id="new", start=0.5, stop=2.0)
    segments = [dataclasses.replace(kitchen[2], label="scrub"), *kitchen[3:5], new, *kitchen[5:], *kitchen[:1]]
    segments[1] = dataclasses.replace(segments[1], imu_offset=0.05)
    path = shutil.copytree(store.path, tmp_path / "store")
    before, rows = held(path), rows_of(path)
    fresh = held(prepare(segments, tmp_path / "fresh").path)
    states = set()
    for killed in disturbed(lambda folder: prepare(segments, folder), path, tmp_path):
        assert_intact(killed)
        happened = "scrub" in data.ClipStore(killed, unfinished=True).class_names
        states.add(happened)
        if not happened:
            assert held(killed) == before and rows_of(killed) == rows
        prepare(segments, killed)
        assert held(killed) == fresh
    assert states == {False, True}


def test_a_part(kitchen, store, tmp_path):
    (path := tmp_path / "store").mkdir()
    with files.lock(lock_file(path)):  # begun, so that foreign files are no other content
        pass
    prepare(kitchen, path, rank=1, world_size=2)
    usual, rows, lost = held(store.path), rows_of(path), rows_of(store.path)
    counts = []
    for killed in disturbed(lambda folder: prepare(kitchen, folder, rank=0, world_size=2), path, tmp_path):
        assert_intact(killed)
        found = rows_of(killed)
        assert rows.items() <= found.items() <= lost.items()
        counts.append(len(found))
        prepare(kitchen, killed, rank=0, world_size=2)
        assert held(killed) == usual
    assert len(set(counts)) > 3 and counts == sorted(counts)


def test_a_merge(kitchen, store, tmp_path, monkeypatch):
    with monkeypatch.context() as patched:
        patched.setattr(data.StoreWriter, "merge", lambda writer: None)
        path = prepare(kitchen, tmp_path / "store").path
    usual = held(store.path)
    assert held(path) == usual
    for killed in disturbed(lambda folder: data.StoreWriter(folder).merge(), path, tmp_path):
        assert_intact(killed)
        assert held(killed) == usual
        data.StoreWriter(killed).merge()
        shutil.rmtree(killed / "shards" / "00000")  # the index alone knows now
        assert len(data.ClipStore(killed)) == 12


def test_a_sweep(kitchen, store, tmp_path):
    path = shutil.copytree(store.path, tmp_path / "store")
    prepare(kitchen[:6], path)
    shutil.copytree(path / "shards" / "00001", path / "shards" / ".00009.7-a1.part")
    for number in range(20, 25):
        shutil.copytree(path / "shards" / "00001", path / "shards" / f"{number:05d}")
    usual = held(path)
    for killed in disturbed(lambda folder: data.ClipStore(folder).sweep(), path, tmp_path):
        assert_intact(killed)
        assert held(killed) == usual
        again = shutil.copytree(killed, tmp_path / "again")
        rebuild(again)
        assert_intact(again)
        assert rows_of(killed).items() <= rows_of(again).items()
        shutil.rmtree(again)
        data.ClipStore(killed).sweep()
        assert held(killed) == usual and "not used" not in data.ClipStore(killed).shards
        kept = {name for name in files_of(killed) if name.startswith("shards/")}
        assert {name.split("/")[1] for name in kept} == {"00000", "00024", "00042", "mine"}


def test_an_array_that_is_added(store, tmp_path):
    def work(path):
        made = data.ClipStore(path)
        made.add("energy", (), np.float32)
        made.write("energy", slice(None), np.arange(12.0))

    path = shutil.copytree(store.path, tmp_path / "store")
    made = data.ClipStore(path)
    made.add("energy", (2,), np.float64)
    made.write("energy", slice(None), np.ones((12, 2)))
    StoreFiles(path).mark("energy", np.arange(12), np.zeros(12, np.uint64))  # none of its rows counts
    for killed in disturbed(work, path, tmp_path):
        again = shutil.copytree(killed, tmp_path / "again")
        rebuild(again)
        for one in (killed, again):
            assert_intact(one)
            work(one)
            assert data.ClipStore(one).read("energy", slice(None)).tolist() == [*range(12)]
        shutil.rmtree(again)


def test_a_failure_always_has_its_reason(kitchen, tmp_path):
    late = [dataclasses.replace(one, imu_offset=1e3) if one.video != kitchen[0].video else one for one in kitchen]
    path = prepare(late, tmp_path / "store", rank=1, world_size=2, max_bad=1.0).path
    counts = set()
    for killed in disturbed(lambda folder: prepare(late, folder, max_bad=1.0), path, tmp_path):
        assert_intact(killed)
        counts.add(len(data.ClipStore(killed, unfinished=True).failures))
        assert len(prepare(late, killed, max_bad=1.0).failures) == 8
    assert max(counts) == 8 and len(counts) > 2
