"""The clip store: its files, views of it, arrays that are added, and what is refused."""

import dataclasses
import errno
import json
import os
import pickle
import shutil
import subprocess
import sys
import threading
import zlib
from pathlib import Path

import numpy as np
import pytest
from foreign import linux_only
from painted import KILLED, OPTIONS, STEADY, X264, arrays_of, number_of, without_checksums, write_video
from waiting import LIMIT, until

from egodistill import DataError, EgoDistillOSError, data
from egodistill.datasets.annotations import Segment
from egodistill.datasets.one_pass import Pending
from egodistill.datasets.store import ClipStore, StoreWriter, claim_outputs, folds, outputs_record
from egodistill.datasets.store_files import StoreFiles
from egodistill.recordings.spec import ClipSpec
from egodistill.support import files


def test_header_lists_every_array_and_numpy_maps_them(store):
    header = json.loads((store.path / "store.json").read_text())
    for entry in header["arrays"].values():
        array = np.load(store.path / entry["file"], mmap_mode="r", allow_pickle=False)
        assert array.dtype == entry["dtype"] and list(array.shape) == entry["shape"]
    assert {e["file"] for e in header["arrays"].values()} == {f.name for f in store.path.glob("*.npy")}
    assert not list(store.path.glob(".*.part"))
    clips = json.loads((store.path / "clips.json").read_text())
    assert len(clips) == 12 and set(clips[0]) == {"segment", "start"}


def test_views_and_copies(store):
    test = store.split("test")
    assert len(test) == 4 and len(store) == 12 and test.path == store.path
    assert test.segments.tolist() == [6, 7, 7, 8] and {c["split"] for c in test.clips} == {"test"}
    rows = test.read("imu", [3, 0, 0])
    np.testing.assert_array_equal(rows, store.read("imu", np.array([11, 8, 8])))
    assert type(rows) is np.ndarray and rows.flags.owndata
    rows[:] = 0
    assert test.read("imu", [3]).any()
    with pytest.raises(DataError, match=r"'val'.*test.*train"):
        store.split("val")
    with pytest.raises(DataError, match=r"no array 'depth'.*frames_1"):
        store.read("depth", [0])
    with pytest.raises(DataError, match="there are no usable clips"):
        store.select([]).split("val")
    with pytest.raises(IndexError):
        test.read("imu", [4])
    twin = pickle.loads(pickle.dumps(test))
    np.testing.assert_array_equal(twin.read("imu", [1]), test.read("imu", [1]))


@pytest.fixture
def asked(monkeypatch):
    """The locks that other threads have asked for."""
    usual, found = files.lock, []

    def lock(path):
        if threading.current_thread() is not threading.main_thread():
            found.append(Path(path))
        return usual(path)

    monkeypatch.setattr(files, "lock", lock)
    return found


def test_a_store_is_laid_out_by_one_at_a_time(kitchen, tmp_path, asked):
    path = tmp_path / "s"
    path.mkdir()
    with files.lock(path / "store.lock"):
        other = threading.Thread(target=data.prepare, args=(kitchen, path), kwargs=OPTIONS)
        other.start()
        until(lambda: path / "store.lock" in asked)
        other.join(0.05)
        assert other.is_alive() and not (path / "store.json").exists()
    other.join(LIMIT)
    assert len(ClipStore(path)) == 12


def test_arrays_are_added_by_one_at_a_time(store, tmp_path, asked):
    """Another process may be adding one of its own: the header that is written last must have both."""
    path = shutil.copytree(store.path, tmp_path / "s")
    with files.lock(path / "store.lock"):
        other = threading.Thread(target=ClipStore(path).add, args=("late", (3,), "float32"))
        other.start()
        until(lambda: path / "store.lock" in asked)
        other.join(0.05)
        assert other.is_alive() and "late" not in ClipStore(path).names
        StoreFiles(path).add("early", (2,), "float32")
    other.join(LIMIT)
    assert {"early", "late"} <= set(ClipStore(path).names)


@linux_only
def test_prepare_goes_on_after_a_killed_one_where_there_are_no_locks(kitchen, tmp_path, monkeypatch, capfd):
    """Its file outlives it."""

    def refuse(file, operation):
        raise OSError(errno.ENOLCK, "no locks")

    monkeypatch.setattr(files.fcntl, "flock", refuse)
    code = "from egodistill.support import holders; print(holders.this_process(), end='')"
    environment = os.environ | {"PYTHONPATH": str(Path(data.__file__).parent)}
    dead = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / ".store.lock.held").write_text(dead.stdout)
    assert len(data.prepare(kitchen, tmp_path / "s", **OPTIONS)) == 12
    assert "has ended, so its lock is taken over" in capfd.readouterr().err
    assert not (tmp_path / "s" / ".store.lock.held").exists()


def test_two_writers_of_the_same_rows_give_what_one_gives(store, kitchen, tmp_path):
    """The same command twice at a time, with the same rank: nobody's rows are spoilt."""
    fields = [dataclasses.astuple(segment) for segment in kitchen]
    (tmp_path / "given").write_bytes(pickle.dumps((fields, OPTIONS)))
    command = [sys.executable, "-c", KILLED, str(Path(data.__file__).parent), tmp_path / "given", tmp_path / "s"]
    scripts = [subprocess.Popen(command) for _ in range(2)]
    assert [script.wait(LIMIT) for script in scripts] == [0, 0]
    assert arrays_of(tmp_path / "s") == arrays_of(store.path)
    # One of them can read a clip no longer (its machine lost the disk) that the other has finished.
    StoreWriter(tmp_path / "s").fail(5, "no such file")
    left = ClipStore(tmp_path / "s")
    assert len(left) == 12 and not left.failures


def test_kill_before_the_header_leaves_a_folder_that_can_be_used(kitchen, tmp_path, monkeypatch):
    write = files.write_json

    def die(path, value, **options):
        if path.name == "store.json":
            raise KeyboardInterrupt
        write(path, value, **options)

    monkeypatch.setattr(files, "write_json", die)
    with pytest.raises(KeyboardInterrupt):
        data.prepare(kitchen, tmp_path / "s", **OPTIONS)
    monkeypatch.undo()
    assert len(data.prepare(kitchen, tmp_path / "s", **OPTIONS)) == 12


def test_rerun_with_something_else_is_refused(store, kitchen):
    before = arrays_of(store.path)
    changes = [
        ({"num_frames": 1}, r"num_frames was \[1, 4\] and is now \[1\]"),
        ({"frame_size": 32}, "frame_size was 40 and is now 32"),
        ({"imu": False}, "imu was True and is now False"),
        ({"class_names": ["wash", "take", "cut"]}, r"classes was \['cut', .* and is now \['wash', "),
    ]
    for change, words in changes:
        with pytest.raises(DataError, match=f"{words}.*another folder"):
            data.prepare(kitchen, store.path, **OPTIONS | change)
    with pytest.raises(DataError, match=r"segments was 9 and is now 4; .*segment 0 \(.*\)\.id was 'P01_101_0'"):
        data.prepare(kitchen[1:5], store.path, **OPTIONS)  # another table: most of it is gone
    assert arrays_of(store.path) == before


def test_a_store_of_another_version_or_of_mixed_files_is_refused(store, kitchen, tmp_path):
    """By whoever opens it and by prepare(), which leaves it as it is."""

    def change(file, edit):
        path = shutil.copytree(store.path, tmp_path / "s", dirs_exist_ok=True)
        content = json.loads((path / file).read_text())
        (path / file).write_text(json.dumps(edit(content) or content))
        before = arrays_of(path) | {file: (path / file).read_bytes()}
        for use in (ClipStore, lambda p: data.prepare(kitchen, p, **OPTIONS)):
            with pytest.raises(DataError) as error:
                use(path)
            assert str(path) in str(error.value)
        assert arrays_of(path) | {file: (path / file).read_bytes()} == before
        return str(error.value)

    said = change("store.json", lambda header: header.update(format="egodistill clip store 1"))
    assert "'egodistill clip store 1', of another version" in said and "prepare another folder" in said
    for lacking in ("settings", "specs", "class_names", "arrays"):
        assert f"'{lacking}'" in change("store.json", lambda header, key=lacking: header.pop(key) and None)
    assert "'colour'" in change("segments.json", lambda all: all[0].update(colour="red"))
    assert "'segment'" in change("clips.json", lambda all: all[0].pop("segment") and None)
    assert "of two stores mixed" in change("clips.json", lambda all: all[:-1])
    assert "of two stores mixed" in change("clips.json", lambda all: all[1:] + all[:1])


def test_what_is_known_of_each_clip(store):
    """Its wearer, what its arrays hold, when its frames were taken."""
    assert store.wearers == ["P01"] * 4 + ["P02"] * 4 + ["P30"] * 4
    assert store.split("test").wearers == ["P30"] * 4 and store.clips[5]["wearer"] == "P02"
    assert store.specs["frames_4"] == ClipSpec(frames=4, size=40, crop=False)
    assert store.specs["clip"] == ClipSpec(frames=3, size=24, crop=True)
    assert store.specs["imu"].imu_samples == 422 and store.specs["ends"].sampling == "ends"
    times = store.read("frames_4.times", np.arange(12))
    for row, clip in enumerate(store.clips):
        numbers = [number_of(picture) for picture in store.read("frames_4", row)]
        np.testing.assert_allclose(times[row], STEADY[numbers], atol=1e-6)
        asked = store.specs["frames_4"].times(clip["start"])
        assert ((asked - times[row] >= -1e-6) & (asked - times[row] < 1 / 25)).all()


def test_any_clips_can_be_selected(store):
    rest = store.select(np.array([w != "P02" for w in store.wearers]))
    assert len(rest) == 8 and rest.splits == ["test", "train"] and "P02" not in rest.wearers
    picked = rest.select([7, 0, 0])
    np.testing.assert_array_equal(picked.read("imu", [0, 1]), store.read("imu", [11, 0]))
    assert picked.labels.tolist() == store.labels[[11, 0, 0]].tolist()
    with pytest.raises(IndexError):
        rest.select([8])
    with pytest.raises(DataError, match="rows must be a list"):
        rest.select(3)


def test_fingerprint_is_that_of_the_content(store, kitchen, tmp_path):
    again = data.prepare(kitchen, tmp_path / "again", **OPTIONS)
    assert again.fingerprint == store.fingerprint and again.split("test").fingerprint == store.split("test").fingerprint
    seen = {store.fingerprint, store.split("test").fingerprint, store.select([1, 0]).fingerprint}
    video = shutil.copy(kitchen[8].video, tmp_path / "other.mp4")  # another content under the same name, later
    segments = [*kitchen[:8], dataclasses.replace(kitchen[8], video=str(video))]
    seen.add(data.prepare(segments, tmp_path / "one", **OPTIONS).fingerprint)
    shutil.copy(write_video(tmp_path / "later.mp4", STEADY + 0.3, **X264), video)
    seen.add(data.prepare(segments, tmp_path / "two", **OPTIONS).fingerprint)
    seen.add(data.prepare(kitchen, tmp_path / "small", **OPTIONS | {"frame_size": 32}).fingerprint)
    assert len(seen) == 5  # a copy of a video is the same content
    again.add("t.feature", (3,), np.float32)
    assert again.fingerprint == store.fingerprint


def test_folds_keep_wearers_together(store, kitchen, tmp_path):
    parts = folds(store, 3)
    assert parts.dtype == np.int64 and sorted(set(parts)) == [0, 1, 2]
    assert all(len(set(parts[4 * k : 4 * k + 4])) == 1 for k in range(3))
    assert folds(store, 2).tolist() == [0] * 4 + [1] * 4 + [0] * 4
    np.testing.assert_array_equal(folds(store, 3, by="video"), parts)
    segments = folds(store, 4, by="segment")
    assert sorted(np.bincount(segments)) == [3, 3, 3, 3]
    assert all(len(set(segments[store.segments == one])) == 1 for one in set(store.segments))
    train = store.split("train")
    assert folds(train, 2).tolist() == [0] * 4 + [1] * 4
    for count in (1, 4):
        with pytest.raises(DataError, match=f"3 wearers cannot make {count} folds"):
            folds(store, count)
    with pytest.raises(DataError, match="'wearer', 'video' or 'segment', not 'label'"):
        folds(store, 2, by="label")
    nobody = [dataclasses.replace(s, wearer=None) for s in kitchen]
    unknown = data.prepare(nobody, tmp_path / "s", num_frames=(), ends=False, progress=False, workers=1)
    with pytest.raises(DataError, match="12 clips have no wearer; give by='video'"):
        folds(unknown, 2)
    np.testing.assert_array_equal(folds(unknown, 3, by="video"), parts)


def test_foreign_folder_is_left_alone(kitchen, tmp_path):
    (tmp_path / "thesis.tex").write_text("ten years of work")
    with pytest.raises(DataError, match=r"contains thesis.tex but no store.json"):
        data.prepare(kitchen, tmp_path, **OPTIONS)
    assert [f.name for f in tmp_path.iterdir()] == ["thesis.tex"]


def test_files_with_the_names_of_a_store_are_not_its_remains(kitchen, tmp_path):
    np.save(tmp_path / "imu.npy", np.arange(9))
    with pytest.raises(DataError, match=r"contains imu.npy but no store.json"):
        data.prepare(kitchen, tmp_path, **OPTIONS)
    np.testing.assert_array_equal(np.load(tmp_path / "imu.npy"), np.arange(9))


def test_a_number_that_an_array_cannot_hold_is_refused(store, tmp_path):
    copy = ClipStore(shutil.copytree(store.path, tmp_path / "s"))
    copy.add("mark", (1,), "int8")
    with pytest.raises(DataError, match="'mark' is int8, which cannot hold 300; give it another type"):
        copy.write("mark", [0], np.array([[300]]))
    copy.write("mark", [0], np.array([[-128]]))
    assert copy.read("mark", [0]).tolist() == [[-128]]


def test_a_folder_that_a_desktop_has_looked_at_is_empty(kitchen, tmp_path):
    names = {".DS_Store", "._s", ".directory", "Thumbs.db", "desktop.ini"}
    for name in names:
        (tmp_path / name).touch()
    assert len(data.prepare(kitchen, tmp_path, **OPTIONS)) == 12
    assert names < {file.name for file in tmp_path.iterdir()}


@pytest.fixture
def log(monkeypatch):
    """Return the names and rows that are written, in order."""
    written, put = [], StoreFiles.put

    def recorded(self, name, rows, values):
        written.append((name, np.atleast_1d(rows)))
        put(self, name, rows, values)

    monkeypatch.setattr(StoreFiles, "put", recorded)
    return written


def test_data_are_written_before_the_status(kitchen, tmp_path, log):
    data.prepare(kitchen[:2], tmp_path / "s", **OPTIONS)
    for row in range(3):
        names = [name for name, rows in log if row in rows]
        assert names[-3:] == ["checksum.crc32", "checksum", "status"] and names.count("status") == 1
        pictures = {"frames_1", "frames_4", "ends", "clip"}
        assert {*pictures, *(f"{name}.times" for name in pictures), "imu"} == set(names[:-3])


def test_teacher_outputs(store, kitchen, tmp_path, log):
    path = shutil.copytree(store.path, tmp_path / "s")
    store = ClipStore(path)
    test = store.split("test")
    store.add("t.feature", (5,), np.float32)
    assert "t.feature" in store.names and not store.done("t.feature").any()
    with pytest.raises(DataError, match=r"not written yet for 12 of 12 clips; .*egodistill extract"):
        store.read("t.feature", [0])
    values = np.arange(10, dtype=np.float32).reshape(2, 5)
    del log[:]
    test = ClipStore(path).split("test")
    test.add("t.feature", (5,), "float32")  # finds it
    test.write("t.feature", np.array([3, 0]), values)
    assert [name for name, _ in log] == ["t.feature", "t.feature.crc32", "t.feature.done"]  # data first, then the mark
    assert test.done("t.feature").tolist() == [True, False, False, True]
    assert np.flatnonzero(store.done("t.feature")).tolist() == [8, 11]
    np.testing.assert_array_equal(store.read("t.feature", [8, 11]), values[::-1])
    np.testing.assert_array_equal(np.load(path / "t.feature.npy", mmap_mode="r")[11], values[0])
    assert np.load(path / "t.feature.done.npy").sum() == 2
    assert store.done("imu").all()
    assert "t.feature" in ClipStore(path).names and len(ClipStore(path)) == 12
    assert len(data.prepare(kitchen, path, **OPTIONS)) == 12  # going on does not mind them
    for change in ((6,), np.float32), ((5,), np.float16):
        with pytest.raises(DataError, match=r"add\(\) has already made an array .t.feature"):
            store.add("t.feature", *change)
    with pytest.raises(DataError, match="not made by add"):
        store.write("imu", [0], np.zeros((1, 422, 6), np.float32))
    for wrong in (np.zeros((2, 4), np.float32), np.zeros((1, 5)), np.zeros((2, 5), complex)):
        with pytest.raises(DataError, match=r".t.feature. needs float32 \[2, 5\]"):
            store.write("t.feature", [0, 1], wrong)
    with pytest.raises(DataError, match="cannot be the name"):
        store.add("../x", (1,), np.float32)


def test_outputs_need_a_folder_that_can_be_written(store, monkeypatch):
    monkeypatch.setattr(files.os, "access", lambda path, mode: False)
    with pytest.raises(DataError, match=r"cannot be written, because .* is not a writable folder; give another path"):
        claim_outputs(store, "t", {"fingerprint": "a"})
    assert not (store.path / "t.teacher.json").exists()


def test_an_open_store_sees_what_is_added_later(store, tmp_path):
    """By another view, process or machine: its header is read again once it has changed."""
    path = shutil.copytree(store.path, tmp_path / "s")
    before, view = ClipStore(path), ClipStore(path).split("test")
    ClipStore(path).add("t.feature", (5,), np.float32)
    assert "t.feature" in view.names and not before.done("t.feature").any()
    with pytest.raises(DataError, match="not written yet"):
        before.read("t.feature", [0])
    later = ClipStore(path)
    later.add("u.feature", (2,), np.float32)
    with pytest.raises(DataError, match="not written yet"):  # and does not take room for values
        view.read("u.feature", [0])
    later.write("u.feature", np.arange(12), np.ones((12, 2), np.float32))
    assert view.read("u.feature", [0]).tolist() == [[1, 1]]
    later.add("v.feature", (1,), np.float32)
    view.write("v.feature", [0], np.ones((1, 1), np.float32))
    assert later.done("v.feature").sum() == 1


def test_names_that_windows_and_macos_cannot_have(store, tmp_path):
    store = ClipStore(shutil.copytree(store.path, tmp_path / "s"))
    for name in ("CON", "nul", "Aux.feature", "COM1.logits", "lpt9"):
        with pytest.raises(DataError, match=f"'{name}' cannot be the name of an array: Windows"):
            store.add(name, (1,), np.float32)
    store.add("Teacher.feature", (1,), np.float32)
    store.add("console.feature", (1,), np.float32)
    for name, other in (("teacher.feature", "Teacher.feature"), ("Status", "status"), ("IMU", "imu")):
        with pytest.raises(DataError, match=f"already has an array .{other}.*Windows and macOS.*{name}"):
            store.add(name, (1,), np.float32)
    assert ClipStore(store.path).names[-2:] == ["Teacher.feature", "console.feature"]
    store.add("Teacher.feature", (1,), np.float32)  # finds it


def test_damaged_stores_are_named(store, tmp_path):
    def copy(name):
        return shutil.copytree(store.path, tmp_path / name)

    path = copy("cut")
    (path / "imu.npy").write_bytes((store.path / "imu.npy").read_bytes()[:-100])
    with pytest.raises(DataError, match=r"imu.npy: missing or truncated"):
        ClipStore(path)
    for name in ("ends.npy", "segments.json"):
        path = copy(f"without {name}")
        (path / name).unlink()
        with pytest.raises(DataError, match=rf"{name}: missing.*; copy the store again"):
            ClipStore(path)
    path = copy("other")
    np.save(path / "label.npy", np.zeros(3))
    with pytest.raises(DataError, match=r"label.npy: the array is float64 \[3\]"):
        ClipStore(path)
    path = copy("pickled")
    np.save(path / "label.npy", np.array([{}] * 12, object), allow_pickle=True)
    with pytest.raises(DataError, match=r"label.npy"):
        ClipStore(path)
    for name, text in (("json", '{"arrays": 1}'), ("list", "[1]"), ("broken", '{"format')):
        path = copy(name)
        (path / "store.json").write_text(text)
        with pytest.raises(DataError, match=r"store.json: (not the header|is damaged)"):
            ClipStore(path)
    with pytest.raises(
        DataError, match=r"store.json: no such file, so .* is not a clip store; give the folder that prepare"
    ):
        ClipStore(tmp_path / "nowhere")
    (tmp_path / "run").mkdir()
    copy("run/store")
    with pytest.raises(DataError, match=r"run is not a clip store; give .*run/store$"):
        ClipStore(tmp_path / "run")


def test_full_disk_is_seen_before_anything_is_written(kitchen, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)._replace(free=100_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(DataError, match=r"the store needs \d.\d MB, but only 0.1 MB are free"):
        data.prepare(kitchen, tmp_path / "s", **OPTIONS)


def test_full_disk_while_the_arrays_are_made(kitchen, store, tmp_path, full_disk):
    """Of prepare() and of a teacher's outputs; nothing half made stays, and the same call goes on."""
    path = tmp_path / "s"
    largest = max(file.stat().st_size for file in store.path.iterdir())
    with (
        full_disk(largest - 1),
        pytest.raises(EgoDistillOSError, match=r"s/\w+\.npy: cannot be written: File too large"),
    ):
        data.prepare(kitchen, path, **OPTIONS)
    assert not (path / "store.json").exists() and not list(path.glob(".*.part"))
    assert arrays_of(data.prepare(kitchen, path, **OPTIONS).path) == arrays_of(store.path)
    header, files = (path / "store.json").read_bytes(), sorted(path.iterdir())
    made = ClipStore(path)
    with full_disk(4096), pytest.raises(EgoDistillOSError, match=r"s/t\.feature\.npy: cannot be written.*MB are free"):
        made.add("t.feature", (1000,), np.float32)
    with full_disk(len(header)), pytest.raises(EgoDistillOSError, match=r"s/store\.json: cannot be written"):
        made.add("t.x", (1,), np.float32)
    assert (path / "store.json").read_bytes() == header and made.names == ClipStore(path).names
    new = {file.name for file in path.iterdir()} - {file.name for file in files}
    assert new == {"t.x.npy", "t.x.done.npy", "t.x.crc32.npy"}
    made.add("t.x", (1,), np.float32)
    made.write("t.x", np.arange(12), np.ones((12, 1), np.float32))


@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="the system cannot take room on the disk")
def test_arrays_have_their_room_on_the_disk_from_the_start(kitchen, tmp_path, monkeypatch):
    """A disk that is full later then kills no process that writes to a mapped file."""
    store = data.prepare(kitchen, tmp_path / "s", **OPTIONS, rank=0, world_size=3)
    store.add("t.feature", (100_000,), np.float32)
    for file in store.path.glob("*.npy"):
        assert file.stat().st_blocks * 512 >= file.stat().st_size, file
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    monkeypatch.setattr(os, "posix_fallocate", lambda *_: (_ for _ in ()).throw(full))
    with pytest.raises(EgoDistillOSError, match=r"t\.logits\.npy: cannot be written: No space.*repeat the call"):
        store.add("t.logits", (3,), np.float32)


def test_parts_of_a_killed_process_go_when_a_store_is_laid_out(kitchen, tmp_path):
    """They may hold as much room as the arrays themselves."""
    for name in (".imu.npy.1.part", ".frames_1.npy.77.part"):
        (tmp_path / name).write_bytes(bytes(1000))
    store = data.prepare(kitchen, tmp_path, **OPTIONS)
    (tmp_path / ".t.feature.npy.3.part").touch()
    store.add("t.feature", (5,), np.float32)
    assert len(store) == 12 and not list(tmp_path.glob(".*.part"))


def test_a_writer_says_what_is_missing(store, tmp_path):
    path = shutil.copytree(store.path, tmp_path / "s")
    writer = StoreWriter(path)
    assert len(writer) == 12 and not len(writer.missing())
    assert [rows.tolist() for rows in writer.recordings()] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]]
    np.load(path / "status.npy", mmap_mode="r+")[[1, 5, 6]] = 0, 2, 2  # missing, failed, failed
    assert writer.missing().tolist() == [1] and not len(writer.missing([5, 6]))
    with pytest.warns(UserWarning, match="1 of 12 clips are not prepared yet"):
        ClipStore(path)
    assert len(ClipStore(path, unfinished=True)) == 9
    status = np.load(path / "status.npy", mmap_mode="r+")
    status[8:] = 0
    with pytest.raises(DataError, match=r"split 'test'; 4 of its clips are not prepared yet; the same call of prepare"):
        ClipStore(path, unfinished=True).split("test")
    status[8:] = 1
    writer.retry(np.array([4, 5]))
    assert writer.missing().tolist() == [1, 5]
    arrays = {name: np.load(path / f"{name}.npy")[1] for name in writer.names}
    arrays["frames_4"][2] = 7
    with pytest.raises(DataError, match=r"each clip needs the arrays .*frames_4\.times.*; got imu"):
        writer.write(1, {"imu": arrays["imu"]})
    assert writer.missing().tolist() == [1, 5]
    writer.write(1, arrays)
    writer.fail(5, "broken")
    assert not len(writer.missing())
    assert (ClipStore(path).read("frames_4", 1)[2] == 7).all()
    assert {f["clip"]: f["reason"] for f in ClipStore(path).failures} == {5: "broken", 6: "unknown"}
    assert (writer.segment(5), writer.start(5)) == (writer.segment(6), ClipStore(path).failures[0]["start"])


def test_outputs_of_two_teachers_never_meet(store, tmp_path):
    path = shutil.copytree(store.path, tmp_path / "s")
    train, whole = ClipStore(path).split("train"), ClipStore(path)
    first, second = ({"fingerprint": name, "views": 1} for name in ("first", "second"))
    assert outputs_record(whole, "t") == {}
    claim = claim_outputs(train, "t", first, about={"teacher": "t"})
    assert outputs_record(whole, "t") == {"teacher": "t", **first, "splits": ["train"]}
    claim_outputs(whole, "t", first)  # the same teacher goes on
    assert outputs_record(whole, "t")["splits"] == ["test", "train"]
    with pytest.raises(DataError, match=r"t\.teacher\.json: .* have the fingerprint first, this run has second"):
        claim_outputs(whole, "t", second)
    whole.add("t.feature", (2,), np.float32)
    whole.add("t.logits", (2,), np.float32)
    for name in ("t.feature", "t.logits"):
        whole.write(name, slice(None), np.ones((12, 2)))
    for part in (train, whole.select(np.arange(11))):
        left = 12 - len(part)
        with pytest.raises(DataError, match=rf"{left} of the clips that are not in this view.*\['test'\].*whole store"):
            claim_outputs(part, "t", second, overwrite=True)
        assert whole.done("t.logits").all() and outputs_record(whole, "t")["fingerprint"] == "first"
    claim.check()
    other = claim_outputs(whole, "t", second, overwrite=True)
    assert not whole.done("t.feature").any() and not whole.done("t.logits").any()
    with pytest.raises(DataError, match="overwriting these outputs with those of the fingerprint second"):
        claim.check()
    other.check()
    claim_outputs(whole, "t", second)  # the call without overwrite goes on
    claim_outputs(train, "t", {"fingerprint": "third"}, overwrite=True)  # and nothing of the second is elsewhere
    assert outputs_record(whole, "t") == {"fingerprint": "third", "splits": ["train"]}
    for text in ("{", "[1]", ""):
        (path / "t.teacher.json").write_text(text)
        with pytest.raises(DataError, match=r"t\.teacher\.json cannot be read"):
            claim_outputs(whole, "t", second)
    (path / "t.teacher.json").unlink()
    claim_outputs(whole, "t", first)  # no row is written, as after a run that failed at once
    (path / "t.teacher.json").unlink()
    whole.write("t.feature", slice(None), np.ones((12, 2)))
    with pytest.raises(DataError, match="have the fingerprint None"):
        claim_outputs(whole, "t", first)
    claim_outputs(whole, "u", first)  # no outputs are there yet


def test_an_interrupted_overwriting_of_version_0_4_0_is_not_continued(store, tmp_path):
    """It left rows of two teachers, all of them marked."""
    copy = ClipStore(shutil.copytree(store.path, tmp_path / "s"))
    identity = {"fingerprint": "b"}
    files.write_json(copy.path / "t.teacher.json", identity | {"splits": ["test", "train"], "unfinished": True})
    copy.add("t.logits", (2,), np.float32)
    copy.write("t.logits", slice(None), np.ones((12, 2)))
    with pytest.raises(DataError, match=r"was interrupted.*overwrite=True"):
        claim_outputs(copy, "t", identity)
    with pytest.raises(DataError, match="4 of the clips that are not in this view"):
        claim_outputs(copy.split("train"), "t", identity, overwrite=True)
    claim_outputs(copy, "t", identity, overwrite=True)
    assert not copy.done("t.logits").any() and "unfinished" not in outputs_record(copy, "t")
    claim_outputs(copy, "t", identity)


def test_an_array_without_a_written_row_can_be_made_in_another_shape(store, tmp_path):
    """An object, and a process, that has the file mapped sees the new one; so does a writer of the old shape."""
    path = shutil.copytree(store.path, tmp_path / "s")
    copy, other = ClipStore(path), ClipStore(path)
    copy.add("t.feature", (4,), "float32")
    copy.write("t.feature", [3], np.ones((1, 4)))
    assert other.read("t.feature", [3]).tolist() == [[1] * 4]
    with pytest.raises(DataError, match=r"already made an array 't.feature'.*\[12, 4\].*\[12, 2\]"):
        copy.add("t.feature", (2,), "float64")
    copy.forget("t.feature")
    assert not other.done("t.feature").any()
    copy.add("t.feature", (2,), "float64")  # as large as the file before
    with pytest.raises(DataError, match=r"needs float64 \[1, 2\]; got float64 \[1, 4\]"):
        other.write("t.feature", [3], np.ones((1, 4)))
    copy.write("t.feature", [3, 5], np.full((2, 2), 7.0))
    for one in (copy, other, ClipStore(path)):
        assert one.done("t.feature").sum() == 2 and one.read("t.feature", [5]).tolist() == [[7, 7]]
    with pytest.raises(DataError, match=r"prepare\(\) has already made an array 'imu'"):
        copy.add("imu", (2,), "float32")


def damaged(store, path, name, content):
    """Return a function that opens a copy of a store with another content of one file, and reads it."""
    shutil.copytree(store.path, path)
    (path / name).unlink(missing_ok=True)
    os.mkfifo(path / name) if content is None else (path / name).write_bytes(content)

    def read():
        copy = ClipStore(path)
        return copy.labels, copy.counts, copy.failures, copy.clips

    return read


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes on this system")
@pytest.mark.parametrize(
    "name", ["label.npy", "imu.npy", "store.json", "segments.json", "clips.json", "failures.jsonl"]
)
def test_a_pipe_in_a_store_is_named(store, tmp_path, name):
    read = damaged(store, tmp_path / "s", name, None)
    with pytest.raises(DataError, match=rf"{name}: a pipe, not a regular file"):
        read()


@pytest.mark.parametrize("text", ["{}", "[]", "[" * 100_000, '{"a":' * 100_000, "null", '[{"id": NaN}]', "\xff"])
@pytest.mark.parametrize("name", ["store.json", "segments.json", "clips.json", "place.json"])
def test_json_of_another_shape_is_named(store, tmp_path, name, text):
    read = damaged(store, tmp_path / "s", name, text.encode("latin-1"))
    with pytest.raises(DataError, match=str(tmp_path)):
        read()


def test_a_damaged_line_of_failures_costs_itself(store, tmp_path):
    lines = (
        b'{"clip": 3, "reason": "x"}\n[1]\n\xff\n' + b"[" * 100_000 + b'\n{"clip": []}\n{"clip": 5, "reason": "dark"}\n'
    )
    read = damaged(store, tmp_path / "s", "failures.jsonl", lines)
    status = np.load(tmp_path / "s" / "status.npy")
    status[5] = 2
    np.save(tmp_path / "s" / "status.npy", status)
    *_, failures, clips = read()
    assert [line["reason"] for line in failures] == ["dark"] and len(clips) == 11


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        ("label", lambda x: x + 90, "label.npy: is damaged, .* 12 of 12 labels differ, .* row 0, 92 for 'wash', .* 2;"),
        (
            "label",
            lambda x: np.where(np.arange(12) == 5, -1, x),
            "label.npy: is damaged, .*: 1 of 12 .* row 5, -1",
        ),
        ("status", lambda x: x + 9, "status.npy: is damaged"),
        ("imu", np.asfortranarray, "imu.npy: the array is float32 .* in Fortran's order"),
        ("imu", lambda x: x.astype(object), "imu.npy: missing or truncated: its header is damaged"),
    ],
)
def test_arrays_with_other_values_are_named(store, tmp_path, name, change, words):
    read = damaged(store, tmp_path / "s", f"{name}.npy", b"")
    np.save(tmp_path / "s" / f"{name}.npy", change(np.load(store.path / f"{name}.npy")))
    with pytest.raises(DataError, match=words):
        read()


def test_an_array_outside_of_the_folder_is_refused(store, tmp_path):
    header = json.loads((store.path / "store.json").read_text())
    header["arrays"]["imu"]["file"] = "../imu.npy"
    with pytest.raises(DataError, match=r"the array 'imu' is in the file '../imu.npy'"):
        damaged(store, tmp_path / "s", "store.json", json.dumps(header).encode())()


def test_an_array_that_is_cut_while_it_is_open_is_an_error(store, tmp_path):
    """Reading a mapped file beyond its end would end the process."""
    shutil.copytree(store.path, tmp_path / "s")
    copy = ClipStore(tmp_path / "s")
    copy.read("imu", [11])
    os.truncate(tmp_path / "s" / "imu.npy", 5000)
    with pytest.raises(DataError, match=r"imu.npy: truncated: 5000 bytes instead of"):
        copy.read("imu", [11])


def test_numbers_that_are_not_finite_stay_out(store, tmp_path):
    shutil.copytree(store.path, tmp_path / "s")
    copy = ClipStore(tmp_path / "s")
    copy.add("mine", (2,), "float32")
    with pytest.raises(DataError, match=r"'mine' would not be finite for 1 clips, such as \['P02_102_0'\]"):
        copy.write("mine", [0, 4], np.array([[0, 1], [1e300, 0]]))
    assert not copy.done("mine").any()
    segments = data.SegmentList(store._files.segments)
    made = StoreWriter.begin(
        tmp_path / "w", segments, lambda: [(0, 0.0), (1, 1.0)], {}, ["a"], arrays={"x": ("float32", (1,))}
    )
    made.write(0, {"x": [np.nan]})
    made.write(1, {"x": [1.0]})
    assert [line["reason"][:15] for line in ClipStore(tmp_path / "w").failures] == ["x is not finite"]


# --- Values that are not the usual ones


def by_hand(path, segments, clips, specs, **options):
    """A store of clips that are not decoded: each has its row as every value."""
    names = sorted({segment.label for segment in segments if segment.label})
    writer = StoreWriter.begin(path, segments, lambda: clips, specs, names, **options)
    for row in writer.missing():
        writer.write(row, {name: np.full(writer._files.array(name).shape[1:], row) for name in writer.names})
    return ClipStore(path)


def segments_of(sizes):
    """Segments of wearers A, B, ...: as many each as the sizes say."""
    wearers = [chr(65 + k) for k, size in enumerate(sizes) for _ in range(size)]
    return [data.Segment(str(k), f"{w}.mp4", 0.0, 1.0, "x", wearer=w) for k, w in enumerate(wearers)]


@linux_only
def test_machines_write_only_the_bytes_of_their_rows(tmp_path, monkeypatch):
    """Each has its own copy of the pages, as on NFS; the server gets the bytes that are written, and no others."""
    segments, arrays = segments_of([5]), {"speed": ("float32", (3,)), "count": ("int16", ())}
    clips, folders = [(k, 0.0) for k in range(5)], [tmp_path / name for name in ("0", "1", "server")]
    for folder in folders:
        StoreWriter.begin(folder, segments, lambda: clips, {}, ["x"], arrays=arrays)
        ClipStore(folder, unfinished=True).add("t.logits", (2,), "float32")
    written, pwrite = [], os.pwrite

    def recorded(file, content, start):
        fcntl = pytest.importorskip("fcntl")
        assert fcntl.fcntl(file, fcntl.F_GETFL) & os.O_DSYNC  # or the client may extend it to a page
        written.append((Path(os.readlink(f"/proc/self/fd/{file}")).name, start, bytes(content[:5])))
        return pwrite(file, content[:5], start)  # it may write less

    monkeypatch.setattr(os, "pwrite", recorded)
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank, rows in enumerate(([0, 2], [1, 3, 4])):
        monkeypatch.setenv("RANK", str(rank))
        writer = StoreWriter(folders[rank])
        for row in rows:
            writer.write(row, {"speed": np.full(3, row + 1), "count": row + 1})
        view = ClipStore(folders[rank], unfinished=True).everything()
        view.write("t.logits", rows, np.array([[row, -row] for row in rows], np.float32))
    for name, start, content in written:
        with open(folders[2] / name, "r+b") as file:
            file.seek(start)
            file.write(content)
    store = ClipStore(folders[2])
    assert store.read("speed", [0, 1, 2, 3, 4]).tolist() == [[k] * 3 for k in range(1, 6)]
    assert store.read("count", [0, 1, 2, 3, 4]).tolist() == [1, 2, 3, 4, 5]
    assert store.read("t.logits", [0, 1, 2, 3, 4]).tolist() == [[k, -k] for k in range(5)]
    assert len({name for name, *_ in written}) == 8  # with status, both checksums, t.logits.done and t.logits.crc32


def test_a_clip_stops_after_its_own_length(tmp_path):
    spec = ClipSpec(imu_samples=4, seconds=3.5)
    store = by_hand(tmp_path / "s", segments_of([1]), [(0, 1.25)], {"imu": spec})
    assert (store.clips[0]["start"], store.clips[0]["stop"]) == (1.25, 4.75)


def test_folds_are_filled_with_the_largest_groups_first(tmp_path):
    sizes = [2, 5, 3, 4, 3]
    clips = [(k, 0.0) for k in range(sum(sizes))]
    store = by_hand(tmp_path / "s", segments_of(sizes), clips, {"imu": ClipSpec(imu_samples=2)})
    fold_of = dict(zip(store.wearers, folds(store, 2).tolist(), strict=True))
    # B (5) -> 0, D (4) -> 1, C (3) -> 1, E (3) -> 0, A (2) -> 1: 8 and 9 clips
    assert fold_of == {"B": 0, "D": 1, "C": 1, "E": 0, "A": 1}
    assert np.bincount(folds(store, 3)).tolist() == [5, 6, 6]


def test_a_fingerprint_covers_labels_classes_segments_rows_and_specs(tmp_path):
    segments = segments_of([2, 2])
    clips, spec = [(0, 0.0), (1, 0.0), (2, 0.0), (3, 0.0)], ClipSpec(imu_samples=2)
    plain = by_hand(tmp_path / "0", segments, clips, {"imu": spec})
    two = [dataclasses.replace(s, label="y" if k == 3 else "x") for k, s in enumerate(segments)]
    others = [dataclasses.replace(s, label="y" if k == 2 else "x") for k, s in enumerate(segments)]
    found = [
        plain,
        by_hand(tmp_path / "1", two, clips, {"imu": spec}),
        by_hand(tmp_path / "2", others, clips, {"imu": spec}),  # the same classes, another clip's label
        by_hand(tmp_path / "3", [dataclasses.replace(s, label="z") for s in segments], clips, {"imu": spec}),
        by_hand(tmp_path / "4", segments, [(0, 0.0), (1, 0.0), (2, 0.0), (2, 0.0)], {"imu": spec}),
        by_hand(tmp_path / "5", segments, clips, {"imu": dataclasses.replace(spec, imu_rate=100.0)}),
        plain.select([0, 1, 2]),
        plain.select([1, 0, 2, 3]),
    ]
    assert len({store.fingerprint for store in found}) == len(found)
    assert by_hand(tmp_path / "6", segments, clips, {"imu": spec}).fingerprint == plain.fingerprint


def test_an_unfinished_store_goes_on_with_the_same_specs_only(tmp_path):
    segments, clips = segments_of([2]), [(0, 0.0), (1, 0.0)]
    begin = {"find_clips": lambda: clips, "class_names": ["x"], "settings": {"a": 1}}
    spec = ClipSpec(imu_samples=2)
    StoreWriter.begin(tmp_path / "s", segments, specs={"imu": spec}, **begin)
    for other in ({"imu_rate": 100.0}, {"seconds": 3.0}, {"imu_samples": 3}):
        with pytest.raises(DataError, match=f"imu.{next(iter(other))} was"):
            StoreWriter.begin(tmp_path / "s", segments, specs={"imu": dataclasses.replace(spec, **other)}, **begin)
    with pytest.raises(DataError, match="a was 1 and is now 2"):
        StoreWriter.begin(tmp_path / "s", segments, specs={"imu": spec}, **begin | {"settings": {"a": 2}})
    assert len(StoreWriter.begin(tmp_path / "s", segments, specs={"imu": spec}, **begin).missing()) == 2


def test_segments_of_one_video_with_different_clocks_are_different_recordings(tmp_path):
    one = data.Segment("1", "a.mp4", 0.0, 1.0, "x", imu="a.csv", imu_offset=0.1)
    segments = [
        one,
        dataclasses.replace(one, id="2", imu_offset=0.2),
        dataclasses.replace(one, id="3", start=0.5),
        dataclasses.replace(one, id="4", imu_stretch=1.1),
        dataclasses.replace(one, id="5", imu="b.csv"),
    ]
    clips = [(k, 0.0) for k in range(5)]
    writer = StoreWriter.begin(tmp_path / "s", segments, lambda: clips, {"imu": ClipSpec(imu_samples=2)}, ["x"])
    assert [rows.tolist() for rows in writer.recordings()] == [[0, 2], [1], [3], [4]]


def test_a_finished_clip_does_not_fail_later(tmp_path):
    segments = segments_of([2])
    writer = StoreWriter.begin(
        tmp_path / "s", segments, lambda: [(0, 0.0), (1, 0.0)], {"imu": ClipSpec(imu_samples=2)}, ["x"]
    )
    writer.write(0, {"imu": np.zeros((2, 6))})
    for row in (0, 1):
        writer.fail(row, "too late")
    store = ClipStore(tmp_path / "s")
    assert len(store) == 1 and [failure["clip"] for failure in store.failures] == [1]
    writer.retry(np.array([0, 1]))
    assert writer.missing().tolist() == [1]


def test_a_record_keeps_the_splits_that_were_written_before(store, tmp_path):
    copy = ClipStore(shutil.copytree(store.path, tmp_path / "s"))
    claim_outputs(copy.split("train"), "t", {"fingerprint": "a"}, about={"teacher": "t"})
    claim_outputs(copy.split("test"), "t", {"fingerprint": "a"}, about={"teacher": "t"})
    assert outputs_record(copy, "t") == {"teacher": "t", "fingerprint": "a", "splits": ["test", "train"]}
    for identity in ({"fingerprint": "a", "views": 3}, {"fingerprint": "a", "precision": "bf16"}):
        with pytest.raises(DataError, match=f"have the {list(identity)[1]} None"):
            claim_outputs(copy, "t", identity)


def test_hashes_of_what_a_training_reads_are_those_of_its_rows(tmp_path):
    segments = segments_of([4])
    store = by_hand(tmp_path / "s", segments, [(k, 0.0) for k in range(4)], {"imu": ClipSpec(imu_samples=2)})
    store.add("t.feature", (3,), "float32")
    values = np.arange(12, dtype=np.float32).reshape(4, 3)
    store.write("t.feature", range(4), values)

    def outputs(view):
        found = view.fingerprints(["imu", "t.feature"])
        assert list(found) == ["clips of the store", "outputs t.feature"]
        return found["outputs t.feature"]

    expected = {(0, 1): values[:2], (2, 3): values[2:], (3, 2): values[[3, 2]], (0, 1, 2, 3): values}
    for rows, part in expected.items():
        assert outputs(store.select(list(rows))) == f"{zlib.crc32(np.ascontiguousarray(part)):08x}"
    values[1, 2] += 1
    store.write("t.feature", [1], values[1:2])
    assert outputs(store.select([0, 1])) == f"{zlib.crc32(values[:2].tobytes()):08x}"


def test_labels_are_indices_of_the_classes_and_minus_1_for_none(tmp_path):
    plain = segments_of([5])
    labels = ["walk", None, "cut", "walk", "run"]
    segments = [dataclasses.replace(s, label=label) for s, label in zip(plain, labels, strict=True)]
    clips = [(4, 0.0), (0, 0.0), (0, 1.0), (1, 0.0), (2, 0.0)]
    store = by_hand(tmp_path / "s", segments, clips, {"imu": ClipSpec(imu_samples=2)})
    assert store.class_names == ["cut", "run", "walk"] and store.labels.tolist() == [1, 2, 2, -1, 0]
    assert store.segments.tolist() == [4, 0, 0, 1, 2] and [clip["start"] for clip in store.clips] == [0, 0, 1, 0, 0]


def test_folds_and_counts_follow_the_clips_in_any_order(tmp_path):
    """Clips of several wearers that do not stand together, of two splits, some failed and some missing."""
    plain = data.Segment("", "v.mp4", 0.0, 1.0, "x")
    segments = [
        dataclasses.replace(plain, id=str(k), video=f"{w}.mp4", wearer=w, split="test" if w == "C" else "train")
        for k, w in enumerate("CABAACBA")
    ]
    clips, specs = [(k, 0.0) for k in range(8)], {"imu": ClipSpec(imu_samples=2)}
    store = by_hand(tmp_path / "s", segments, clips, specs)
    assert dict(zip(store.wearers, folds(store, 3).tolist(), strict=True)) == {"A": 0, "B": 1, "C": 2}
    assert folds(store, 3).tolist() == [2, 0, 1, 0, 0, 2, 1, 0]
    writer = StoreWriter.begin(tmp_path / "t", segments, lambda: clips, specs, ["x"])
    for row in (1, 5):
        writer.write(row, {"imu": np.zeros((2, 6))})
    for row in (6, 7):
        writer.fail(row, "broken")
    found = ClipStore(tmp_path / "t", unfinished=True)
    assert found.counts == {"test": {"ok": 1, "failed": 0, "missing": 1}, "train": {"ok": 1, "failed": 2, "missing": 3}}
    assert found.split("test").counts == found.counts and len(found.split("test")) == 1


@pytest.mark.parametrize("value", [np.nan, -np.inf, 1e300])
def test_one_number_that_is_not_finite_fails_a_clip(tmp_path, value):
    segments = data.SegmentList([data.Segment(f"s{k}", "a.mp4", float(k), k + 1.0) for k in range(2)])
    clips, arrays = [(0, 0.0), (1, 1.0)], {"x": ("float32", (2, 2))}
    writer = StoreWriter.begin(tmp_path / "s", segments, lambda: clips, {}, [], arrays=arrays)
    writer.write(0, {"x": np.array([[1.0, 2.0], [3.0, value]])})
    writer.write(1, {"x": np.ones((2, 2))})
    found = ClipStore(tmp_path / "s")
    assert [line["clip"] for line in found.failures] == [0]
    assert found.read("x", [0]).tolist() == [[[1, 1], [1, 1]]]


def test_the_notes_of_all_recordings_and_the_last_reason_of_a_clip_are_kept(tmp_path):
    segments, arrays = segments_of([2]), {"x": ("float32", (1,))}
    writer = StoreWriter.begin(tmp_path / "s", segments, lambda: [(0, 0.0), (1, 0.0)], {}, ["x"], arrays=arrays)
    writer.note("a.csv", ["sorted"])
    writer.note(("b.csv", "c.csv"), ["zero", "equal"])
    writer.note("a.csv", ["gaps"])
    writer.note("d.csv", [])
    writer.note("e.csv", ["in g"])
    writer.note("e.csv", [])  # corrected, and prepared again
    assert len((tmp_path / "s" / "notes.jsonl").read_text().splitlines()) == 5
    for reason in ("first", "last"):
        writer.fail(1, reason)
        writer.fail(0, f"{reason} of another")
        store = ClipStore(tmp_path / "s")
        assert [failure["reason"] for failure in store.failures] == [f"{reason} of another", reason]
    assert store.notes == {"a.csv": ["gaps"], "b.csv and c.csv": ["zero", "equal"]}


def test_a_clip_is_consumed_when_all_outputs_are_written(tmp_path):
    segments, names = segments_of([3]), ["t.feature", "t.logits"]
    options = {"arrays": {"x": ("float32", (1,))}, "settings": {"consumer": {"arrays": names}}}
    writer = StoreWriter.begin(tmp_path / "s", segments, lambda: [(k, 0.0) for k in range(3)], {}, ["x"], **options)
    every, rows = ClipStore(writer.path, unfinished=True).everything(), np.arange(3)
    assert writer.is_consumed(rows).tolist() == [False] * 3
    for name in names:
        every.add(name, (1,), np.float32)
    every.write(names[0], [0, 1], np.ones((2, 1)))
    assert writer.is_consumed(rows).tolist() == [False] * 3
    every.write(names[1], [1, 2], np.ones((2, 1)))
    assert writer.is_consumed(rows).tolist() == [False, True, False]
    assert writer.is_consumed(rows[::-1][:2]).tolist() == [False, True]


def test_a_spec_without_a_value_is_damage(store, tmp_path):
    shutil.copytree(store.path, tmp_path / "s")
    header = json.loads((tmp_path / "s" / "store.json").read_text())
    header["specs"]["imu"]["seconds"] = None
    (tmp_path / "s" / "store.json").write_text(json.dumps(header))
    with pytest.raises(data.DataError, match="the spec of 'imu' lacks a value"):
        data.ClipStore(tmp_path / "s")


def test_a_teacher_names_the_classes_of_a_store_without_labels(tmp_path):
    segments = [Segment(f"s{k}", "a.mp4", k, k + 1) for k in range(2)]
    clips = [(0, 0.0), (1, 1.0)]
    writer = StoreWriter.begin(tmp_path / "s", segments, lambda: clips, {}, [], arrays={"x": ("float32", (1,))})
    for row in (0, 1):
        writer.write(row, {"x": [row]})
    store, other = data.ClipStore(tmp_path / "s"), data.ClipStore(tmp_path / "s")
    view = store.select([1])
    assert store.class_names == [] and store.labels.tolist() == [-1, -1]
    store.name_classes(("walk", "sit"))
    for one in (store, view, data.ClipStore(tmp_path / "s")):
        assert one.class_names == ["walk", "sit"] and one.labels.max() == -1
    other.name_classes(["walk", "sit"])  # another process, which read the header before
    assert other.class_names == ["walk", "sit"]
    store.name_classes(["run"])  # nothing needs the others
    store.name_classes(["walk", "sit"])
    store.add("t.logits", (2,), "float32")
    store.write("t.logits", [1], np.zeros((1, 2)))
    assert store.classes_are_used() and other.classes_are_used() and not store.classes_are_used(besides="t")
    with pytest.raises(DataError, match=r"s: the store has the classes \['walk', 'sit'\], not \['run'\]"):
        store.name_classes(["run"])
    # The call that prepared it goes on as before; one with other classes does not.
    begin = {"arrays": {"x": ("float32", (1,))}}
    assert not len(StoreWriter.begin(tmp_path / "s", segments, lambda: clips, {}, [], **begin).missing())
    with pytest.raises(DataError, match="the list of classes"):
        StoreWriter.begin(tmp_path / "s", segments, lambda: clips, {}, ["run"], **begin)


def test_classes_that_prepare_was_given_stay_although_no_clip_has_a_label(tmp_path):
    segments, clips = [Segment("s", "a.mp4", 0, 1)], [(0, 0.0)]
    StoreWriter.begin(tmp_path / "s", segments, lambda: clips, {}, ["walk"], arrays={"x": ("float32", (1,))})
    store = data.ClipStore(tmp_path / "s")
    assert store.classes_are_used(besides="t")
    with pytest.raises(DataError, match=r"s: the store has the classes \['walk'\], not \['run'\]"):
        store.name_classes(["run"])


def test_classes_that_labels_need_stay(store, tmp_path):
    copy = ClipStore(shutil.copytree(store.path, tmp_path / "s"))
    assert copy.classes_are_used() and copy.classes_are_used(besides="t")
    with pytest.raises(DataError, match=r"s: the store has the classes \['cut', .*not \['run'\]"):
        copy.name_classes(["run"])
    assert ClipStore(copy.path).class_names == store.class_names


# ---------------------------------------------------------------------------------------------------------------
# Checksums


@pytest.fixture(scope="module")
def filled(store, tmp_path_factory):
    """A store with outputs of a teacher for the clips 2 to 11."""
    path = shutil.copytree(store.path, tmp_path_factory.mktemp("filled") / "s")
    made = ClipStore(path)
    made.add("t.feature", (600,), "float32")
    values = np.random.default_rng(0).normal(size=(10, 600)).astype(np.float32)
    made.write("t.feature", slice(2, 12), values)
    return made


def change(file, do):
    """Change the bytes of an array's file behind its header."""
    content, start = bytearray(file.read_bytes()), 128
    do(memoryview(content)[start:])
    file.write_bytes(content)


def flip(values):
    values[len(values) // 2] ^= 16


def zero(values):
    values[2 * len(values) // 3 :] = bytes(len(values[2 * len(values) // 3 :]))


def rotate(values):
    """Move each byte, as the rows of another store would be others."""
    values[:] = bytes(values[7:]) + bytes(values[:7])


FAULTS = {
    "4 kB of zeros": lambda values: values.__setitem__(slice(4096, 8192), bytes(4096)),
    "a flipped bit": flip,
    "the end is missing": zero,
    "another store's rows": rotate,
    "zeros": lambda values: values.__setitem__(slice(None), bytes(len(values))),
}


@pytest.mark.parametrize("name", ["frames_4", "imu", "t.feature", "ends.times"])
@pytest.mark.parametrize("fault", FAULTS)
def test_damaged_rows_are_noticed_when_they_are_read_and_listed(filled, tmp_path, name, fault):
    path = shutil.copytree(filled.path, tmp_path / "s")
    first = 2 if name == "t.feature" else 0  # rows that are not written yet hold anything
    before = np.load(path / f"{name}.npy")
    if before.nbytes < 8192:
        fault = "a flipped bit" if fault == "4 kB of zeros" else fault
    change(path / f"{name}.npy", FAULTS[fault])
    now = np.load(path / f"{name}.npy")
    rows = [row for row in range(first, 12) if before[row].tobytes() != now[row].tobytes()]
    found = dict(ClipStore(path).verify())
    assert rows and found.pop(name) == rows and not any(found.values())
    damaged, sound = ClipStore(path), ClipStore(filled.path)
    for row in range(first, 12):
        if row not in rows:
            np.testing.assert_array_equal(damaged.read(name, row), sound.read(name, row))
            continue
        for index in (row, [row, row]):
            with pytest.raises(DataError, match=rf"{name}.npy: the row {row} \('P\d+_\d+_\d' at .*--verify` lists"):
                damaged.read(name, index)


@pytest.mark.parametrize("name", ["imu", "t.feature", "frames_4"])
def test_rows_are_verified_once_in_a_process(filled, tmp_path, name):
    opened = ClipStore(shutil.copytree(filled.path, tmp_path / "s"))
    view = opened.split("train")
    view.read(name, [3, 4])
    change(opened.path / f"{name}.npy", lambda values: values.__setitem__(slice(None), bytes(len(values))))
    assert not opened.select([3, 4]).read(name, [0, 1]).any()
    with pytest.raises(DataError, match="the row 5"):
        view.read(name, [3, 5, 4])


def test_rows_of_an_array_that_was_made_again_are_verified_again(filled, tmp_path):
    made = ClipStore(shutil.copytree(filled.path, tmp_path / "s"))
    made.add("x", (2,), "uint8")
    made.write("x", [0, 1], np.full((2, 2), 7, np.uint8))
    made.read("x", [0])
    made.forget("x")
    made.add("x", (3,), "uint8")
    made.write("x", [0, 1], np.full((2, 3), 7, np.uint8))
    change(made.path / "x.npy", lambda values: values.__setitem__(1, 8))
    with pytest.raises(DataError, match="the row 0"):
        made.read("x", [0])


def found_damage(path):
    return {name: rows for name, rows in ClipStore(path).verify() if rows}


def test_files_of_checksums_and_status_are_verified_too(filled, tmp_path):
    for name, wanted in {
        "checksum": {"checksum": [6], "t.feature": [6]},
        "checksum.crc32": {"frames_1": [6], StoreFiles(filled.path).prepared[1]: [6]},
        "t.feature.crc32": {"t.feature": [6]},
        "status": {"status": [6]},
    }.items():
        path = shutil.copytree(filled.path, tmp_path / name)
        array = np.load(path / f"{name}.npy", mmap_mode="r+")
        array.reshape(12, -1)[6, 0] ^= 3 if name == "status" else 1
        assert found_damage(path) == wanted
    bare = by_hand(tmp_path / "bare", segments_of([2]), [(0, 0.0), (1, 0.0)], {})
    assert dict(bare.verify()) == {"status": []}
    assert not any(rows for _, rows in filled.verify()) and None not in dict(filled.verify()).values()


@pytest.mark.parametrize(
    ("field", "value"),
    [("id", "x"), ("start", 0.25), ("stop", 9.0), ("split", "test"), ("wearer", "P09"), ("imu_offset", 0.1)],
)
def test_a_checksum_covers_the_segment(filled, tmp_path, field, value):
    path = shutil.copytree(filled.path, tmp_path / "s")
    segments = json.loads((path / "segments.json").read_text())
    rows = np.flatnonzero(np.load(path / "segment.npy") == 0).tolist()
    segments[0] |= {"video": "moved/here.mp4", "imu": None}
    (path / "segments.json").write_text(json.dumps(segments))
    assert not found_damage(path)
    assert segments[0][field] != value
    segments[0][field] = value
    (path / "segments.json").write_text(json.dumps(segments))
    assert found_damage(path) == dict.fromkeys(StoreFiles(path).prepared, rows)


def test_a_checksum_covers_the_start_of_the_clip_and_the_specs(filled, tmp_path):
    path = shutil.copytree(filled.path, tmp_path / "s")
    clips = json.loads((path / "clips.json").read_text())
    clips[5]["start"] += 0.5
    (path / "clips.json").write_text(json.dumps(clips))
    assert found_damage(path) == {name: [5] for name in StoreFiles(path).prepared}
    path = shutil.copytree(filled.path, tmp_path / "t")
    header = json.loads((path / "store.json").read_text())
    header["specs"]["imu"]["imu_rate"] = 100.0
    (path / "store.json").write_text(json.dumps(header))
    assert found_damage(path) == {name: [*range(12)] for name in StoreFiles(path).prepared}


def test_rows_of_another_clip_store_or_teacher_are_noticed_with_their_checksums(filled, tmp_path):
    path = shutil.copytree(filled.path, tmp_path / "exchanged")
    arrays = ["checksum", *(name for name in StoreFiles(path).arrays if name.endswith("crc32"))]
    for name in [*arrays, *StoreFiles(path).prepared, "t.feature"]:
        array = np.load(path / f"{name}.npy", mmap_mode="r+")
        array[[3, 8]] = array[[8, 3]]
    assert found_damage(path) == {name: [3, 8] for name in StoreFiles(path).prepared}
    with pytest.raises(DataError, match=r"imu.npy: the row 3 .* was damaged or replaced"):
        ClipStore(path).read("imu", [1, 2, 3])

    path = shutil.copytree(filled.path, tmp_path / "outputs")
    for name in ("t.feature", "t.feature.crc32"):
        array = np.load(path / f"{name}.npy", mmap_mode="r+")
        array[2:] = array[2:][::-1].copy()
    assert len(found_damage(path)["t.feature"]) == 10

    path = shutil.copytree(filled.path, tmp_path / "teacher")
    (path / "t.teacher.json").write_text('{"fingerprint": "of another"}')
    assert found_damage(path) == {"t.feature": [*range(2, 12)]}
    (path / "t.teacher.json").write_text("[]")
    assert not found_damage(path)


def test_older_stores_are_verified_as_far_as_their_checksums_go(filled, tmp_path):
    path = without_checksums(shutil.copytree(filled.path, tmp_path / "s"))
    old, together = ClipStore(path), ", ".join(StoreFiles(path).prepared)
    assert dict(old.verify()) == {together: [], "t.feature": None, "status": []}
    for name in ("imu", "t.feature"):
        change(path / f"{name}.npy", flip)
    assert [name for name, rows in old.verify() if rows] == [together]
    assert old.read("imu", slice(None)).shape[0] == 12 and old.read("t.feature", slice(2, None)).any()
    old.add("t.feature", (600,), "float32")  # rows without checksums stay
    old.write("t.feature", [2, 3], np.ones((2, 600), np.float32))
    assert dict(old.verify())["t.feature"] is None
    old.everything().forget("t.feature")
    old.add("t.feature", (600,), "float32")
    old.write("t.feature", [2, 3], np.ones((2, 600), np.float32))
    assert dict(old.verify())["t.feature"] == [] and old.read("t.feature", [2, 3]).all()
    change(path / "t.feature.npy", FAULTS["zeros"])
    assert dict(ClipStore(path).verify())["t.feature"] == [2, 3]
    StoreWriter(path).reset(np.array([1]))  # such as a file that has changed
    writer = StoreWriter(path)
    writer.write(1, {name: np.zeros(np.load(path / f"{name}.npy").shape[1:]) for name in writer.names})
    assert dict(old.verify())[together] == [6]


def test_rows_of_any_index_have_their_checksums(tmp_path):
    store = by_hand(tmp_path / "s", segments_of([6]), [(k, 0.0) for k in range(6)], {"imu": ClipSpec(imu_samples=2)})
    store.add("x", (2, 3), "int16")
    store.add("one", (), "float64")
    store.write("x", 5, np.arange(6).reshape(3, 2).T)
    store.write("x", np.array([True, True, False, False, False, False]), np.ones((2, 2, 3), np.int8))
    store.write("x", np.array([[2, 3], [4, 5]]), np.arange(24).reshape(2, 2, 2, 3)[..., ::-1])
    store.write("one", slice(None), np.arange(6.0))
    assert not any(rows for _, rows in store.verify())
    again = ClipStore(store.path)
    assert again.read("x", np.array([[0, 1], [5, 4]])).shape == (2, 2, 2, 3) and again.read("one", 3) == 3
    for mark in (".done", ".crc32"):
        with pytest.raises(DataError, match=rf"'y{mark}' cannot be the name of an array"):
            store.add(f"y{mark}", (), "uint8")


def linked(path, elsewhere, link):
    """Move the files of a store elsewhere, and link to each; return their content."""
    elsewhere.mkdir()
    for file in sorted(path.iterdir()):
        file.rename(elsewhere / file.name)
        link(elsewhere / file.name, file)
    return {file.name: file.read_bytes() for file in elsewhere.iterdir()}


@pytest.mark.parametrize("link", [os.symlink, os.link], ids=["symbolic", "hard"])
@pytest.mark.parametrize("machines", [1, 2])
def test_nothing_is_written_through_a_link(kitchen, tmp_path, link, machines, monkeypatch):
    """A link in a store may lead to a file of somebody else, and the files of a snapshot (`cp -al`) are shared."""
    path = tmp_path / "s"
    store = data.prepare(kitchen[:2], path, **OPTIONS)
    claim_outputs(store, "t", {"fingerprint": "a"})
    store.add("t.feature", (2,), "float32")
    store.write("t.feature", slice(None), np.zeros((len(store), 2)))
    StoreWriter(path).fail(0, "finished")  # is not written
    writer = StoreWriter(path)
    writer.note("a.csv", ["strange"])
    writer.reset(np.array([1]))
    writer.fail(1, "gone")
    before = linked(path, tmp_path / "elsewhere", link)
    assert {"failures.jsonl", "sources.jsonl", "notes.jsonl", "t.teacher.json", "t.feature.done.npy"} <= before.keys()

    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", str(machines))
    reader = ClipStore(path)  # sees what is written later
    assert len(data.prepare(kitchen[:2], path, retry_failed=True, **OPTIONS)) == len(store) == 3
    writer = StoreWriter(path)
    writer.fail(2, "is finished")
    writer.reset(np.array([2]))
    writer.fail(2, "is gone")
    writer.note("b.csv", ["stranger"])
    store = ClipStore(path)
    claim_outputs(store.everything(), "t", {"fingerprint": "b"}, overwrite=True)
    store.add("t.feature", (2,), "float32")
    store.write("t.feature", [0, 1], np.ones((2, 2)))
    store.add("u.feature", (2,), "float32")
    assert {name: (tmp_path / "elsewhere" / name).read_bytes() for name in before} == before
    for found in (store, ClipStore(path)):
        assert found.read("t.feature", [0, 1]).all() and found.names[-1] == "u.feature"
        assert {"a.csv", "b.csv"} <= set(found.notes) and found.failures[0]["reason"] == "is gone"
    assert reader.read("t.feature", slice(0, 1)).all()  # it was opened before


def test_new_files_take_the_place_of_links(store, tmp_path):
    """Before a store has these files, links in their place lead to files of somebody else, or nowhere."""
    path, thesis = shutil.copytree(store.path, tmp_path / "s"), tmp_path / "thesis"
    thesis.write_text("mine")
    (path / "notes.jsonl").unlink()
    for name in ("t.feature.npy", "t.feature.done.npy"):
        (path / name).symlink_to(thesis)
    (path / "notes.jsonl").symlink_to(tmp_path / "nowhere")
    view = ClipStore(path)
    claim_outputs(view, "t", {"fingerprint": "a"})
    view.add("t.feature", (2,), "float32")
    view.write("t.feature", [0], np.ones((1, 2)))
    StoreWriter(path).note("a.csv", ["strange"])
    assert thesis.read_text() == "mine" and not (tmp_path / "nowhere").exists()
    assert view.done("t.feature").sum() == 1 and ClipStore(path).notes == {"a.csv": ["strange"]}


def test_frames_that_wait_are_in_the_store(tmp_path):
    papers, spec = tmp_path / "papers", ClipSpec(frames=1, size=8)
    settings = {"consumer": {"specs": {"clip": spec.record()}, "arrays": [], "batch_size": 1}}
    store = StoreWriter.begin(tmp_path / "s", segments_of([2]), lambda: [(0, 0.0)], {}, ["x"], settings=settings)
    papers.mkdir()
    (papers / "7.npy").write_text("mine")
    (tmp_path / "s" / "pending").symlink_to(papers)
    pending = Pending(store)
    pending.tidy()
    pending.file(0).symlink_to(papers / "7.npy")
    pending.put(0, {"clip": np.zeros((1, 3, 8, 8), np.uint8)}, [0])
    assert pending.rows() == {0} and (papers / "7.npy").read_text() == "mine" and len(list(papers.iterdir())) == 1


def test_a_link_to_a_store_is_a_store(kitchen, store, tmp_path):
    shutil.copytree(store.path, tmp_path / "disk" / "s")
    (tmp_path / "s").symlink_to(tmp_path / "disk" / "s")
    view = ClipStore(tmp_path / "s")
    view.add("t.feature", (2,), "float32")
    assert len(data.prepare(kitchen, tmp_path / "s", **OPTIONS)) == 12 and (tmp_path / "s").is_symlink()
    assert "t.feature" in ClipStore(tmp_path / "disk" / "s").names
