"""The clip store: its files, views of it, arrays that are added, and what is refused."""

import dataclasses
import errno
import json
import os
import pickle
import re
import shutil
import subprocess
import sys
import threading
import zlib
from pathlib import Path

import numpy as np
import pytest
from foreign import linux_only
from painted import (
    KILLED,
    OPTIONS,
    STEADY,
    X264,
    files_of,
    held,
    number_of,
    reindex,
    row_file,
    row_of,
    write_video,
)
from waiting import LIMIT, until

from egodistill import DataError, EgoDistillOSError, data
from egodistill.datasets import store_files
from egodistill.datasets.annotations import Segment
from egodistill.datasets.one_pass import Pending
from egodistill.datasets.store import ClipStore, StoreWriter, claim_outputs, folds, outputs_record
from egodistill.datasets.store_files import MAX_BYTES, MAX_CLIPS, StoreFiles, place_clips
from egodistill.recordings.spec import ClipSpec
from egodistill.support import files


def test_header_lists_every_array_and_numpy_reads_them(store):
    header, shards = json.loads((store.path / "store.json").read_text()), sorted((store.path / "shards").iterdir())
    assert [shard.name for shard in shards] == ["00000", "00001"]  # of two recordings, and of one
    for shard, rows in zip(shards, (slice(8), slice(8, 12)), strict=True):
        assert {file.stem for file in shard.glob("*.npy")} == {*header["arrays"], "rows"}
        for name, entry in header["arrays"].items():
            array = np.load(shard / f"{name}.npy", mmap_mode="r", allow_pickle=False)
            assert array.dtype == entry["dtype"] and list(array.shape) == [rows.stop % 8 or 8, *entry["shape"]]
            np.testing.assert_array_equal(array, store.read(name, rows))
        table = np.load(shard / "rows.npy", allow_pickle=False)
        assert (table["status"] == 1).all() and table["sums"].shape == (len(array), len(header["arrays"]))
        assert table["start"].tolist() == [clip["start"] for clip in store.clips[rows]]
    names = {f"{name}.{number}.{'json' if name == 'texts' else 'npy'}" for name, (number, _) in header["index"].items()}
    assert names <= {file.name for file in (store.path / "index").iterdir()}
    assert not list(store.path.rglob(".*.part"))


def test_the_page_about_the_files_is_true(store, tmp_path, monkeypatch):
    page = (Path(__file__).parents[2] / "docs" / "store.md").read_text(encoding="utf-8")
    (tmp_path / "store").symlink_to(store.path)
    monkeypatch.chdir(tmp_path)
    shard, table = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    assert not re.search("import (?!json|numpy as np)", shard + table)
    names = {}
    exec(shard, names)
    np.testing.assert_array_equal(names["ready"], store.read("frames_1", slice(8)))
    for clip in (3, 9):
        exec(table.replace("clip = 3", f"clip = {clip}"), names)
        np.testing.assert_array_equal(names["frame"], store.read("frames_1", clip))
        assert names["label"] == store.clips[clip]["label"]


def test_views_and_copies(store):
    test = store.split("test")
    assert len(test) == 4 and len(store) == 12 and test.path == store.path
    assert test.segments.tolist() == [6, 7, 7, 8] and {c["split"] for c in test.clips} == {"test"}
    rows = test.read("imu", [3, 0, 0])
    np.testing.assert_array_equal(rows, store.read("imu", np.array([11, 8, 8])))
    assert type(rows) is np.ndarray and rows.flags.writeable
    out = np.empty((2, 2, *rows.shape[1:]), np.float32)  # any rows of several shards
    given = store.read("imu", [[11, 4], [0, 1]], out=out)
    assert np.shares_memory(given, out)
    np.testing.assert_array_equal(out, store.read("imu", np.arange(12))[[[11, 4], [0, 1]]])
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
    assert held(tmp_path / "s") == held(store.path)
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
    before = files_of(store.path)
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
    assert files_of(store.path) == before


def test_a_store_of_another_version_or_of_mixed_files_is_refused(store, kitchen, tmp_path):
    """By whoever opens it and by prepare(), which leaves it as it is."""

    def change(file, edit):
        path = shutil.copytree(store.path, tmp_path / "s", dirs_exist_ok=True)
        content = json.loads((path / file).read_text())
        (path / file).write_text(json.dumps(edit(content) or content))
        before = files_of(path)
        for use in (lambda p: ClipStore(p).clips, lambda p: data.prepare(kitchen, p, **OPTIONS)):
            with pytest.raises(DataError) as error:
                use(path)
            assert str(path) in str(error.value)
        assert files_of(path) == before
        shutil.rmtree(path)
        return str(error.value)

    for form in ("egodistill clip store 2", "egodistill clip store 4"):
        said = change("store.json", lambda header, form=form: header.update(format=form))
        assert f"'{form}', of another version" in said and "prepare another folder" in said
    for lacking in ("settings", "specs", "class_names", "arrays", "edits", "clips", "index", "place"):
        assert f"'{lacking}'" in change("store.json", lambda header, key=lacking: header.pop(key) and None)
    assert "the index has no label" in change("store.json", lambda header: header["index"].pop("label") and None)
    assert "has 12 values, not 11" in change("store.json", lambda header: header.update(clips=11))
    header = json.loads((shutil.copytree(store.path, tmp_path / "u") / "store.json").read_text())
    (tmp_path / "u" / "store.json").write_text(json.dumps(header | {"class_names": ["cut", "rest", "wash"]}))
    with pytest.raises(DataError, match=r"store.json: is damaged: the label 'take' is none of its classes"):
        _ = ClipStore(tmp_path / "u").labels
    said = change("index/texts.0.json", lambda texts: texts["labels"].reverse())
    assert "texts.0.json: is damaged, or is that of another store" in said


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
    (tmp_path / "elsewhere").mkdir()
    video = shutil.copy(kitchen[8].video, tmp_path / "elsewhere")  # another content under the same name, later
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
        written.append((name, rows))
        put(self, name, rows, values)

    monkeypatch.setattr(StoreFiles, "put", recorded)
    return written


def test_data_are_written_before_the_status(kitchen, tmp_path, log):
    data.prepare(kitchen[:2], tmp_path / "s", **OPTIONS)
    for row in range(3):
        names = [name for name, rows in log if row in rows]
        assert names[-1] == "rows" and names.count("rows") == 1
        pictures = {"frames_1", "frames_4", "ends", "clip"}
        assert {*pictures, *(f"{name}.times" for name in pictures), "imu"} == set(names[:-1])


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
    assert [name for name, _ in log] == ["t.feature", *2 * ["t.feature.sums"]]  # data first, then the mark
    assert test.done("t.feature").tolist() == [True, False, False, True]
    assert np.flatnonzero(store.done("t.feature")).tolist() == [8, 11]
    np.testing.assert_array_equal(store.read("t.feature", [8, 11]), values[::-1])
    np.testing.assert_array_equal(row_of(path, "t.feature", 11)[0], values[0])
    marks = np.load(row_file(path, "t.feature.sums", 11)[0])
    assert (
        marks.dtype == np.uint64
        and np.flatnonzero(marks).tolist() == [0, 3]
        and (marks[[0, 3]] >> np.uint64(32) == 1).all()
    )
    assert len(list((path / "shards").glob("*/t.feature*"))) == 2  # a shard gets them with its first row
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
    for name, other in (("teacher.feature", "Teacher.feature"), ("Clip", "clip"), ("IMU", "imu")):
        with pytest.raises(DataError, match=f"already has an array .{other}.*Windows and macOS.*{name}"):
            store.add(name, (1,), np.float32)
    assert ClipStore(store.path).names[-2:] == ["Teacher.feature", "console.feature"]
    store.add("Teacher.feature", (1,), np.float32)  # finds it


def test_damaged_stores_are_named(store, tmp_path):
    def copy(name):
        return shutil.copytree(store.path, tmp_path / name)

    path = copy("cut")
    file, _ = row_file(path, "imu", 11)
    for size, words in ((-100, "truncated: it ends at"), (60, "missing or truncated: its header is damaged")):
        file.write_bytes(file.read_bytes()[:size])
        with pytest.raises(DataError, match=rf"00001.imu.npy: {words}.*; copy the store again"):
            ClipStore(path).read("imu", [11])
    for name, read in (
        ("shards/00000/ends.npy", lambda found: found.read("ends", [0])),
        ("shards/00001/rows.npy", lambda found: found.read("imu", [11])),
        ("index/label.0.npy", lambda found: found.labels),
        ("index/texts.0.json", lambda found: found.clips),
        ("index/status.0.npy", len),
    ):
        path = copy(f"without {Path(name).name}")
        assert ClipStore(path).read("ends", [0]).any()
        for file in path.glob(name.replace(".0.", ".*.")):
            file.unlink()
        with pytest.raises((DataError, FileNotFoundError), match=f"{Path(name).name.split('.')[0]}.*missing|No such"):
            read(ClipStore(path))
    path = copy("other")
    np.save(row_file(path, "imu", 0)[0], np.zeros((8, 3)))
    with pytest.raises(DataError, match=r"imu.npy: its rows are float64 \[3\], but store.json says float32 \[422, 6\]"):
        ClipStore(path).read("imu", [0])
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
    largest = max(file.stat().st_size for file in store.path.rglob("*.npy"))
    with (
        full_disk(largest - 1),
        pytest.raises(EgoDistillOSError, match=r"shards/00000: cannot be written: File too large"),
    ):
        data.prepare(kitchen, path, **OPTIONS)
    assert not list(path.rglob(".*.part")) and not list((path / "shards").iterdir())
    assert held(data.prepare(kitchen, path, **OPTIONS).path) == held(store.path)
    made = ClipStore(path)
    made.add("t.feature", (1000,), np.float32)
    header, found = (path / "store.json").read_bytes(), {*path.rglob("*")}
    with full_disk(4096), pytest.raises(EgoDistillOSError, match=r"/t\.feature\.npy: cannot be written.*MB are free"):
        made.write("t.feature", [0], np.ones((1, 1000), np.float32))
    with full_disk(len(header)), pytest.raises(EgoDistillOSError, match=r"s/store\.json: cannot be written"):
        made.add("t.x", (1,), np.float32)
    assert (path / "store.json").read_bytes() == header and made.names == ClipStore(path).names
    assert {*path.rglob("*")} == found and not made.done("t.feature").any()
    made.add("t.x", (1,), np.float32)
    made.write("t.x", np.arange(12), np.ones((12, 1), np.float32))


@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="the system cannot take room on the disk")
def test_arrays_have_their_room_on_the_disk_from_the_start(kitchen, tmp_path, monkeypatch):
    """A disk that is full later then kills no process that writes to a mapped file."""
    store = data.prepare(kitchen, tmp_path / "s", **OPTIONS, rank=0, world_size=3)
    store.add("t.feature", (100_000,), np.float32)
    store.write("t.feature", [0], np.ones((1, 100_000), np.float32))
    found = list(store.path.glob("shards/*/*.npy"))
    assert len(found) == 12 and all(file.stat().st_blocks * 512 >= file.stat().st_size for file in found)
    usage = shutil.disk_usage(tmp_path)._replace(free=100_000)
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    monkeypatch.setattr(os, "posix_fallocate", lambda *_: (_ for _ in ()).throw(full))
    with pytest.raises(EgoDistillOSError, match=r"t\.logits\.npy: cannot be written: No space.*repeat the call"):
        store.add("t.logits", (3,), np.float32)
        store.write("t.logits", [0], np.ones((1, 3), np.float32))
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(DataError, match=r"the array 'u.feature' needs 1.0 MB, but only 0.1 MB are free"):
        store.add("u.feature", (20_000,), np.float32)


def test_what_killed_processes_left_is_swept(store, tmp_path):
    """And shards that no clip uses; nothing of anybody else."""
    path, usual = shutil.copytree(store.path, tmp_path / "s"), held(store.path)
    for number in ("00017", "00019"):
        shutil.copytree(path / "shards" / "00001", path / "shards" / number)
    size = sum(file.stat().st_size for file in (path / "shards" / "00017").iterdir())
    own = ("shards/.00001.12-a0b1.part/imu.npy", "shards/00017/.x.npy.8-0f0f0f0f.part", "shards/00017/x.sums.npy")
    foreign = ("shards/00020/imu.npy", "shards/mine/x", "shards/00019/.draft.part", "index/mine.7.npy")
    for name in (*own, *foreign, "index/label.7.npy"):
        (path / name).parent.mkdir(exist_ok=True)
        (path / name).write_bytes(bytes(1000))
    (path / "shards" / "00018").symlink_to(path / "shards" / "00000")
    made, before = ClipStore(path), files_of(path)
    assert made.shards == {"complete": 2, "not used": 2} and made.sweep() == 3000 + size
    after = files_of(path)
    assert before.keys() - after.keys() >= {"index/label.7.npy", *own} and {*foreign} <= after.keys()
    assert all(name.startswith(("index/", "shards/00017/", "shards/.")) for name in before.keys() - after.keys())
    assert not (path / "shards" / "00017").exists() and made.shards == {"complete": 2} and held(path) == usual


def test_a_file_of_somebody_else_is_no_array_of_the_store(store, tmp_path):
    path = shutil.copytree(store.path, tmp_path / "s")
    foreign = [path / "shards" / name / "energy.npy" for name in ("mine", "00001", "00042")]
    for file in foreign:
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(b"mine")
    made = ClipStore(path)
    made.add("energy", (), np.float32)
    made.add("energy", (2,), np.float32)
    with pytest.raises(DataError, match=r"shards.00001.energy.npy: is not the store's.*move it away"):
        made.write("energy", slice(None), np.ones((12, 2)))
    assert [file.read_bytes() for file in foreign] == 3 * [b"mine"]
    foreign[1].unlink()
    made.write("energy", slice(None), np.ones((12, 2)))
    assert made.read("energy", slice(None)).all() and not any(rows for _, rows in made.verify())


def test_a_writer_says_what_is_missing(store, tmp_path):
    path = shutil.copytree(store.path, tmp_path / "s")
    writer = StoreWriter(path)
    assert len(writer) == 12 and not len(writer.missing())
    assert [rows.tolist() for rows in writer.recordings()] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]]
    arrays = {name: np.array(row_of(path, name, 1)[0]) for name in writer.names}
    writer.reset(np.array([1, 5, 6]))
    for row in (5, 6):
        writer.fail(row, "dark")
    assert writer.missing().tolist() == [1] and not len(writer.missing([5, 6]))
    with pytest.warns(UserWarning, match="1 of 12 clips are not prepared yet"):
        ClipStore(path)
    assert len(ClipStore(path, unfinished=True)) == 9
    other = shutil.copytree(path, tmp_path / "other")
    StoreWriter(other).reset(np.arange(8, 12))
    with pytest.raises(DataError, match=r"split 'test'; 4 of its clips are not prepared yet; the same call of prepare"):
        ClipStore(other, unfinished=True).split("test")
    (path / "failures.jsonl").unlink()
    writer.retry(np.array([4, 5]))
    assert writer.missing().tolist() == [1, 5]
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


def test_an_array_without_a_written_row_can_be_made_in_another_shape(store, tmp_path):
    """An object, and a process, that has the file mapped sees the new one; so does a writer of the old shape."""
    path = shutil.copytree(store.path, tmp_path / "s")
    copy, other = ClipStore(path), ClipStore(path)
    copy.add("t.feature", (4,), "float32")
    copy.write("t.feature", [3], np.ones((1, 4)))
    assert other.read("t.feature", [3]).tolist() == [[1] * 4]
    with pytest.raises(DataError, match=r"already made an array 't.feature'.*float32 \[4\].*float64 \[2\]"):
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
    """Return a function that opens a copy of a store with another content of one file, and reads all."""
    shutil.copytree(store.path, path)
    (path / name).unlink(missing_ok=True)
    os.mkfifo(path / name) if content is None else (path / name).write_bytes(content)

    def read():
        copy = ClipStore(path)
        return copy.read("imu", [0]), copy.labels, copy.counts, copy.failures, copy.clips

    return read


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes on this system")
@pytest.mark.parametrize(
    "name",
    [
        "index/label.0.npy",
        "index/texts.0.json",
        "shards/00000/imu.npy",
        "shards/00000/rows.npy",
        "store.json",
        "failures.jsonl",
    ],
)
def test_a_pipe_in_a_store_is_named(store, tmp_path, name):
    read = damaged(store, tmp_path / "s", name, None)
    with pytest.raises(DataError, match=rf"{name}: a pipe, not a regular file"):
        read()


@pytest.mark.parametrize("text", ["{}", "[]", "[" * 100_000, '{"a":' * 100_000, "null", '[{"id": NaN}]', "\xff"])
@pytest.mark.parametrize("name", ["store.json", "index/texts.0.json"])
def test_json_of_another_shape_is_named(store, tmp_path, name, text):
    read = damaged(store, tmp_path / "s", name, text.encode("latin-1"))
    with pytest.raises(DataError, match=str(tmp_path)):
        read()


def test_a_damaged_line_of_failures_costs_itself(store, tmp_path):
    lines = (
        b'{"shard": 0, "row": 3, "reason": "x"}\n[1]\n\xff\n' + b"[" * 100_000 + b'\n{"shard": [], "row": []}\n'
        b'{"shard": 0, "row": 5, "reason": "dark"}\n'
    )
    read = damaged(store, tmp_path / "s", "failures.jsonl", lines)
    reindex(tmp_path / "s", status=lambda values: np.where(np.arange(12) == 5, 2, values))
    *_, failures, clips = read()
    assert [line["reason"] for line in failures] == ["dark"] and len(clips) == 11


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        ("index/label.0", lambda x: x + 90, "label.0.npy: is damaged, or is that of another store"),
        ("index/start.*", lambda x: x[:-1], "start.1.npy: is damaged, or is that of another store"),
        ("shards/00000/imu", np.asfortranarray, "imu.npy: its rows are float32 .* in Fortran's order"),
        (
            "shards/00000/imu",
            lambda x: x.astype(object),
            "imu.npy: its rows are object .*, but store.json says float32",
        ),
    ],
)
def test_arrays_with_other_values_are_named(store, tmp_path, name, change, words):
    *_, file = sorted(store.path.glob(f"{name}.npy"))
    read = damaged(store, tmp_path / "s", file.relative_to(store.path), b"")
    np.save(tmp_path / "s" / file.relative_to(store.path), change(np.load(file)))
    with pytest.raises(DataError, match=words):
        read()


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        ("status", lambda x: x + 9, r"status.\d.npy: is damaged: its values are up to 10"),
        ("row", lambda x: x[1:], r"row.\d.npy: has 11 values, not 12"),
    ],
)
def test_columns_that_contradict_the_header_are_named(store, tmp_path, name, change, words):
    reindex(shutil.copytree(store.path, tmp_path / "s"), **{name: change})
    with pytest.raises(DataError, match=words):
        ClipStore(tmp_path / "s")


def test_an_array_outside_of_the_folder_is_refused(store, tmp_path):
    header = json.loads((store.path / "store.json").read_text())
    header["arrays"]["../imu"] = header["arrays"].pop("imu")
    with pytest.raises(DataError, match=r"the array '../imu' has no name of an array"):
        damaged(store, tmp_path / "s", "store.json", json.dumps(header).encode())()


def test_an_array_that_is_cut_while_it_is_open_is_an_error(store, tmp_path):
    shutil.copytree(store.path, tmp_path / "s")
    copy = ClipStore(tmp_path / "s")
    copy.read("imu", [11])
    os.truncate(row_file(copy.path, "imu", 11)[0], 5000)
    with pytest.raises(DataError, match=r"imu.npy: truncated: it ends at"):
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
        writer.write(row, {name: np.full(writer._files.arrays[name]["shape"], row) for name in writer.names})
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
        view = ClipStore(folder, unfinished=True).everything()
        view.add("t.logits", (2,), "float32")
        view.write("t.logits", [0], np.ones((1, 2)))  # creates the files
        view.forget("t.logits")
    written, pwrite = [], os.pwrite

    def recorded(file, content, start):
        fcntl = pytest.importorskip("fcntl")
        name = Path(os.readlink(f"/proc/self/fd/{file}")).name
        # or the client may extend it to a page; prepare() has shards of its own
        assert bool(fcntl.fcntl(file, fcntl.F_GETFL) & os.O_DSYNC) == name.startswith("t.logits")
        written.append((name, start, bytes(content[:5])))
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
        with open(folders[2] / "shards" / "00000" / name, "r+b") as file:
            file.seek(start)
            file.write(content)
    store = ClipStore(folders[2])
    assert store.read("speed", [0, 1, 2, 3, 4]).tolist() == [[k] * 3 for k in range(1, 6)]
    assert store.read("count", [0, 1, 2, 3, 4]).tolist() == [1, 2, 3, 4, 5]
    assert store.read("t.logits", [0, 1, 2, 3, 4]).tolist() == [[k, -k] for k in range(5)]
    assert len({name for name, *_ in written}) == 5  # with the table of rows and t.logits.sums


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
    file, _ = row_file(path, name, first)
    before = np.load(file)
    if before.nbytes < 8192:
        fault = "a flipped bit" if fault == "4 kB of zeros" else fault
    change(file, FAULTS[fault])
    now = np.load(file)
    rows = [row for row in range(first, len(now)) if before[row].tobytes() != now[row].tobytes()]
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
    change(row_file(opened.path, name, 3)[0], lambda values: values.__setitem__(slice(None), bytes(len(values))))
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
    change(row_file(made.path, "x", 0)[0], lambda values: values.__setitem__(1, 8))
    with pytest.raises(DataError, match="the row 0"):
        made.read("x", [0])


def found_damage(path):
    return {name: rows for name, rows in ClipStore(path).verify() if rows}


def test_columns_and_tables_of_checksums_and_status_are_verified_too(filled, tmp_path):
    prepared, twelve = StoreFiles(filled.path).prepared, np.arange(12)
    for name, do, wanted in (
        (
            "checksum",
            lambda path: reindex(path, checksum=lambda x: x ^ (twelve == 6)),
            {key: [6] for key in ("checksum", *prepared, "t.feature")},
        ),
        (
            "sums",
            lambda path: row_of(path, "rows", 6)["sums"].__setitem__((0, 0), 7),
            {key: [6] for key in prepared[:2]},
        ),
        (
            "marks",
            lambda path: row_of(path, "t.feature.sums", 6).__ixor__(np.uint64(1)),
            {"t.feature": [6]},
        ),
        ("status", lambda path: reindex(path, status=lambda x: np.where(twelve == 6, 2, x)), {"status": [6]}),
    ):
        path = shutil.copytree(filled.path, tmp_path / name)
        do(path)
        assert found_damage(path) == wanted
    bare = by_hand(tmp_path / "bare", segments_of([2]), [(0, 0.0), (1, 0.0)], {})
    assert dict(bare.verify()) == {"status": []}
    assert not any(rows for _, rows in filled.verify())


OTHERS = {"imu_offset": 0.1, "imu_stretch": 1.1, "imu_axes": "yXZ", "zero_accel": True, "video": "P01_109.MP4"}


@pytest.mark.parametrize("field", OTHERS)
def test_a_checksum_covers_the_recording(filled, tmp_path, field):
    path = shutil.copytree(filled.path, tmp_path / "s")

    def other(**fields):
        return lambda texts: texts | {"recordings": [texts["recordings"][0] | fields, *texts["recordings"][1:]]}

    reindex(path, texts=other(video="moved/P01_101.MP4", imu=None, wearer="P09"))  # an edit may say so
    assert not found_damage(path)
    reindex(path, texts=other(**{field: OTHERS[field]}))
    assert found_damage(path) == {StoreFiles(path).prepared[0]: [0, 1, 2, 3]}


def test_a_checksum_covers_the_start_of_the_clip_and_the_specs(filled, tmp_path):
    path = shutil.copytree(filled.path, tmp_path / "s")
    row_of(path, "rows", 5)["start"] += 0.5
    assert found_damage(path) == {StoreFiles(path).prepared[0]: [5]}
    path = shutil.copytree(filled.path, tmp_path / "t")
    header = json.loads((path / "store.json").read_text())
    header["specs"]["imu"]["imu_rate"] = 100.0
    (path / "store.json").write_text(json.dumps(header))
    assert found_damage(path) == {StoreFiles(path).prepared[0]: [*range(12)]}


def test_rows_of_another_clip_store_or_teacher_are_noticed_with_their_checksums(filled, tmp_path):
    path = shutil.copytree(filled.path, tmp_path / "exchanged")
    for name in ("rows", *StoreFiles(path).prepared):
        one, other = row_of(path, name, 3), row_of(path, name, 8)
        one[:], other[:] = other.copy(), one.copy()
    assert found_damage(path) == {key: [3, 8] for key in ("checksum", *StoreFiles(path).prepared)}
    with pytest.raises(DataError, match=r"imu.npy: the row 3 .* was damaged or replaced"):
        ClipStore(path).read("imu", [1, 2, 3])

    path = shutil.copytree(filled.path, tmp_path / "outputs")
    for name in ("t.feature", "t.feature.sums"):
        array = np.load(row_file(path, name, 2)[0], mmap_mode="r+")
        array[2:] = array[2:][::-1].copy()
    assert found_damage(path) == {"t.feature": [*range(2, 8)]}

    path = shutil.copytree(filled.path, tmp_path / "teacher")
    (path / "t.teacher.json").write_text('{"fingerprint": "of another"}')
    assert found_damage(path) == {"t.feature": [*range(2, 12)]}
    (path / "t.teacher.json").write_text("[]")
    assert not found_damage(path)


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
    for name in ("y.sums", "rows", "Rows"):
        with pytest.raises(DataError, match=f"'{name}' cannot be the name of an array"):
            store.add(name, (), "uint8")


def linked(path, elsewhere, link):
    """Move the files of a store elsewhere, and link to each; return their content."""
    elsewhere.mkdir()
    for name in files_of(path):
        (elsewhere / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).rename(elsewhere / name)
        link(elsewhere / name, path / name)
    return files_of(elsewhere)


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
    assert {"failures.jsonl", "sources.jsonl", "notes.jsonl", "t.teacher.json", "store.json"} <= before.keys()
    assert {f"shards/00000/{name}.npy" for name in ("rows", "imu", "t.feature", "t.feature.sums")} <= before.keys()

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
    assert files_of(tmp_path / "elsewhere") == before
    for found in (store, ClipStore(path)):
        assert found.read("t.feature", [0, 1]).all() and found.names[-1] == "u.feature"
        assert {"a.csv", "b.csv"} <= set(found.notes) and found.failures[0]["reason"] == "is gone"
    assert reader.read("t.feature", slice(0, 1)).all()  # it was opened before


def test_new_files_take_the_place_of_links(store, tmp_path):
    """Before a store has these files, links in their place lead to files of somebody else, or nowhere."""
    path, thesis = shutil.copytree(store.path, tmp_path / "s"), tmp_path / "thesis"
    thesis.write_text("mine")
    (path / "notes.jsonl").unlink()
    for name in ("t.feature.npy", "t.feature.sums.npy"):
        (path / "shards" / "00000" / name).symlink_to(thesis)
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


# ---------------------------------------------------------------------------------------------------------------
# Shards


@pytest.mark.parametrize(
    ("row_bytes", "limit"), [(1, MAX_CLIPS), (MAX_BYTES // 7, 8), (2 * MAX_BYTES, 1), (0, MAX_CLIPS)]
)
def test_recordings_share_shards_as_long_as_they_fit(row_bytes, limit):
    """As `prepare()` gets them: clips of a recording need not stand together."""
    rng = np.random.default_rng(3)
    sizes = np.round(np.exp(rng.uniform(0, np.log(3000), 50))).astype(int)
    recordings = rng.permutation(np.repeat(np.arange(50), sizes))
    shards, rows = place_clips(recordings, row_bytes, first=7)
    found, counts = np.unique(shards, return_counts=True)
    most = min(limit, max(8, -(-len(recordings) // 32)), max(1, MAX_BYTES // max(1, row_bytes)))
    assert found.tolist() == [*range(7, 7 + len(found))] and counts.max() <= most
    assert all(
        np.array_equal(np.sort(rows[shards == shard]), np.arange(count))
        for shard, count in zip(found, counts, strict=True)
    )
    for number, size in enumerate(sizes):
        own = shards[recordings == number]
        assert (np.diff(own) >= 0).all() and len(np.unique(own)) == -(-size // most)
    for one, other in zip((shards, rows), place_clips(recordings, row_bytes, first=7), strict=True):
        np.testing.assert_array_equal(one, other)
    filled = [
        int((shards == one).sum() + (recordings == recordings[shards == one + 1].min()).sum()) for one in found[:-1]
    ]
    assert min(filled) > most  # none has room for all of the next recording


def test_parts_of_long_and_short_recordings_are_about_equal(tmp_path):
    """Sixty of 10 s to 3 h in sixteen parts: a recording may be divided."""
    seconds = np.exp(np.random.default_rng(60).uniform(np.log(10), np.log(3 * 3600), 60))
    segments = [data.Segment(str(k), f"{k}.mp4", 0.0, float(length), "x") for k, length in enumerate(seconds)]
    clips = [(k, start) for k, one in enumerate(segments) for start in data.clip_starts(0.0, one.stop, one.stop)]
    arrays = {"x": ("uint8", (1,))}
    writer = StoreWriter.begin(tmp_path / "s", segments, lambda: clips, {}, ["x"], arrays=arrays)
    parts = [writer.share(rank, 16) for rank in range(16)]
    sizes = [sum(map(len, part)) for part in parts]
    assert max(sizes) <= 1.10 * np.mean(sizes) and sum(sizes) == len(clips)
    assert np.array_equal(np.sort(np.concatenate([rows for part in parts for rows in part])), np.arange(len(clips)))
    for rows in (rows for part in parts for rows in part):  # each array is of one recording
        assert len({clips[row][0] for row in rows.tolist()}) == 1
    sizes = [8, 8, 7, 6, 5, 5]  # a shard each
    clips = [(k, 0.0) for k in range(sum(sizes))]
    writer = StoreWriter.begin(tmp_path / "t", segments_of(sizes), lambda: clips, {}, ["x"], arrays=arrays)
    assert [sum(map(len, writer.share(rank, 3))) for rank in range(3)] == [13, 13, 13]


def test_a_store_has_more_shards_than_open_files(tmp_path, monkeypatch):
    monkeypatch.setattr(store_files, "OPEN_FILES", 6)
    spec, clips = {"imu": ClipSpec(imu_samples=2)}, [(k, 0.0) for k in range(200)]
    made = by_hand(tmp_path / "s", segments_of([8] * 25), clips, spec)
    made.add("t.feature", (1,), "float32")
    made.write("t.feature", slice(None), np.arange(200.0)[:, None])
    assert made.shards == {"complete": 25}
    order = np.random.default_rng(0).permutation(200)
    for name in ("imu", "t.feature"):
        assert made.read(name, order).reshape(200, -1)[:, 0].tolist() == order.tolist()
    assert not [name for name, rows in made.verify() if rows]
    assert not Path("/proc/self/fd").exists() or len(open_in(tmp_path)) <= 2 * 6


def open_in(folder):
    """The files of a folder that this process has open."""
    found = (os.path.realpath(file) for file in Path("/proc/self/fd").iterdir())
    return [file for file in found if file.startswith(f"{folder}{os.sep}")]
