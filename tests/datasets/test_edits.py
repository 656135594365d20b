"""Edits of a table: a store follows them without decoding a frame twice, and ends as a fresh run would."""

import contextlib
import dataclasses
import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
from painted import KILLED, OPTIONS, files_of, held, row_of
from waiting import LIMIT

from egodistill import data, video
from egodistill.datasets import edits, index
from egodistill.datasets.store import claim_outputs
from egodistill.datasets.store_files import StoreFiles, rebuild
from egodistill.support.errors import DataError


def changed(segments, number, **fields):
    return [dataclasses.replace(one, **fields) if k == number else one for k, one in enumerate(segments)]


def inserted(segments, number, **fields):
    new = dataclasses.replace(segments[0], id="new", **fields)
    return [*segments[:number], new, *segments[number:]]


# {edit: (what it makes of the segments, the note, clips to decode)}
EDITS = {
    "a label": (lambda s: changed(s, 2, label="scrub"), "1 label changed", 0),
    "a split": (lambda s: changed(s, 0, split="validation"), "1 split changed", 0),
    "a wearer": (lambda s: [dataclasses.replace(one, wearer="P77") for one in s], "9 wearers changed", 0),
    "the first row gone": (lambda s: s[1:], "1 gone", 0),
    "a row in the middle gone": (lambda s: s[:4] + s[5:], "gone", 0),
    "the last row gone": (lambda s: s[:-1], "gone", 0),
    "each second row gone": (lambda s: s[::2], "gone", 0),
    "a row more, first": (lambda s: inserted(s, 0, start=1.0, stop=2.5), "1 clip new", 1),
    "a row more, in the middle": (lambda s: inserted(s, 5, start=1.0, stop=2.5), "1 clip new", 1),
    "a row more, last": (lambda s: inserted(s, 9, start=1.0, stop=2.5), "1 clip new", 1),
    "the same row again": (lambda s: inserted(s, 3), "1 clip new", 1),
    "another start": (lambda s: changed(s, 4, start=s[4].start + 0.1), "1 clip new, 1 gone", 1),
    "another order": (lambda s: s[::-1], "no clip is new or gone", 0),
    "another clock": (lambda s: changed(s, 3, imu_offset=0.05), "IMU of", 0),
    "other axes": (lambda s: changed(s, 6, imu_axes="XZy"), "IMU of", 0),
    "several": (
        lambda s: inserted(changed(s, 2, label="scrub")[1:], 4, start=0.5, stop=2.0, label="wash"),
        "1 label changed, 1 clip new, 1 gone: 1 clip to decode",
        1,
    ),
}


@pytest.fixture
def decoded(monkeypatch):
    """The clips whose frames are decoded, in this process."""
    rows, real = [], data.decode_clips

    def decode(recording, starts, specs, **limits):
        rows.extend(starts)
        return real(recording, starts, specs, **limits)

    monkeypatch.setattr(data, "decode_clips", decode)
    return rows


@pytest.fixture
def own(store, tmp_path):
    """A copy of the kitchen's store."""
    return shutil.copytree(store.path, tmp_path / "store")


def prepare(segments, path, **options):
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        made = data.prepare(segments, path, **OPTIONS | options)
    return made, " ".join(str(one.message) for one in said)


@pytest.mark.parametrize("edit", EDITS)
def test_a_store_follows_an_edit_and_ends_as_a_fresh_one(kitchen, own, decoded, tmp_path, edit):
    change, told, count = EDITS[edit]
    segments = change(list(kitchen))
    _, said = prepare(segments, own)
    assert told in said and len(decoded) >= count and (count > 0) == bool(decoded)
    fresh, _ = prepare(segments, tmp_path / "fresh")
    assert held(own) == held(fresh.path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["fresh", "store"]
    decoded.clear()
    again, said = prepare(segments, own)
    assert not decoded and "to decode" not in said and again.fingerprint == fresh.fingerprint


def test_rows_whose_frames_are_drawn_by_their_number_are_decoded_where_it_changes(kitchen, decoded, tmp_path):
    options = {"sampling": ("uniform", "random"), "imu": False, "clip_frames": None}
    prepare(kitchen, tmp_path / "store", **options)
    decoded.clear()
    for segments in (changed(kitchen, 1, label="scrub"), list(kitchen[1:])):
        prepare(segments, tmp_path / "store", **options)
        fresh, _ = prepare(segments, tmp_path / f"fresh-{len(segments)}", **options)
        assert held(tmp_path / "store") == held(fresh.path)


def test_another_clock_changes_nothing_of_a_store_without_head_motion(kitchen, decoded, tmp_path):
    prepare(kitchen, tmp_path / "store", imu=False)
    decoded.clear()
    made, _ = prepare([dataclasses.replace(one, imu_offset=0.05) for one in kitchen], tmp_path / "store", imu=False)
    assert len(made) == 12 and not decoded and not [name for name, rows in made.verify() if rows]


def test_what_is_of_a_shard_behind_a_link_follows_an_edit(kitchen, own, tmp_path):
    with_array(own, "t.logits", fingerprint="a1")
    (own / "shards" / "00001").rename(tmp_path / "00001")
    (own / "shards" / "00001").symlink_to(tmp_path / "00001")
    made, _ = prepare([dataclasses.replace(one, label="zap") if one.label == "cut" else one for one in kitchen], own)
    made.add("t.logits", (3,), "float32")
    assert not made.done("t.logits").any() and rebuild(own) == 12


def test_outputs_of_teachers_go_with_their_clips(kitchen, own, tmp_path):
    store = data.ClipStore(own)
    claim_outputs(store, "mine", {"fingerprint": "a1"})
    for name, width in (("mine.feature", 5), ("mine.logits", 4)):
        store.add(name, (width,), "float32")
        store.write(name, slice(0, 9), np.arange(9.0)[:, None] + np.arange(width, dtype=np.float32))
    before = {(clip["id"], clip["start"]): k for k, clip in enumerate(store.clips)}
    segments = inserted(list(kitchen[1:]), 2, start=1.0, stop=2.5)
    made, _ = prepare(segments, own)
    for row, clip in enumerate(made.clips):
        old = before.get((clip["id"], clip["start"]))
        assert made.done("mine.feature")[row] == (old is not None and old < 9)
        if old is not None and old < 9:
            assert (made.read("mine.feature", [row]) == np.arange(5) + old).all()
    claim_outputs(made, "mine", {"fingerprint": "a1"})
    with pytest.raises(DataError, match="fingerprint a1"):
        claim_outputs(made, "mine", {"fingerprint": "b2"})
    assert not [name for name, rows in made.verify() if rows]


def test_another_table_and_other_settings_are_refused(kitchen, own):
    before = files_of(own)
    for other in (kitchen[:4], kitchen[::3], [dataclasses.replace(one, start=one.start + 0.1) for one in kitchen]):
        with pytest.raises(DataError, match=r"was begun with other settings: .*Give another folder, or delete"):
            prepare(other, own)
    segments = changed(kitchen, 2, label="scrub")
    with pytest.raises(DataError, match="other settings: frame_size was 40 and is now 32"):
        prepare(segments, own, frame_size=32)
    assert files_of(own) == before


def test_an_edit_of_labels_touches_no_picture_and_opens_no_video(kitchen, own, monkeypatch):
    def state():
        found = {file: file.stat() for file in (own / "shards").rglob("*")}
        return {file: (about.st_ino, about.st_mtime_ns, about.st_size) for file, about in found.items()}

    before, opened = state(), []
    monkeypatch.setattr(video.av, "open", lambda *given, **_: opened.append(given))
    segments = [dataclasses.replace(one, split="test", wearer="P9") for one in changed(kitchen, 2, label="scrub")]
    made, said = prepare(segments[1:], own)
    assert "1 label changed, " in said and made.splits == ["test"] and "scrub" in made.class_names
    assert state() == before and len(before) > 20 and not opened


def test_a_snapshot_of_hard_links_stays_as_it_was(kitchen, own, tmp_path):
    """As `cp -al` makes one."""
    writer, values = with_array(own, "mine.feature", fingerprint="a1"), np.ones((12, 5), np.float32)
    shutil.copytree(own, tmp_path / "snapshot", copy_function=os.link)
    before, known = files_of(tmp_path / "snapshot"), held(tmp_path / "snapshot")
    writer.write("mine.feature", [0], values[:1])  # its files were open before
    assert (writer.read("mine.feature", [0]) == 1).all() and (data.ClipStore(own).read("mine.feature", [0]) == 1).all()
    made, _ = prepare(inserted(changed(changed(kitchen, 2, label="scrub"), 3, imu_offset=0.05)[1:], 3), own)
    claim_outputs(made, "mine", {"fingerprint": "b2"}, overwrite=True)
    with_array(own, "mine.feature", fingerprint="b2")
    data.StoreWriter(own).reset(np.array([0]))
    assert files_of(tmp_path / "snapshot") == before and held(tmp_path / "snapshot") == known


def test_who_comes_while_another_process_edits_leaves_its_work_alone(kitchen, own, monkeypatch):
    segments, real = inserted(changed(kitchen, 2, label="scrub"), 4, start=0.5, stop=2.0), edits.apply

    def late(path, *given):
        with monkeypatch.context() as patch:
            patch.setattr(edits, "apply", real)
            patch.setattr(data, "fill", lambda store, rows: None)  # it decodes still
            prepare(segments, path)
        assert real(path, *given) == edits.Change({}, 0, 0, 0)
        return real(path, *given)

    monkeypatch.setattr(edits, "apply", late)
    made, _ = prepare(segments, own)
    assert len(made) == 13 and json.loads((own / "store.json").read_text())["edits"] == 1


def test_several_machines_follow_an_edit(kitchen, own, tmp_path):
    """One after the other, and at once: the first one edits, and each decodes its share of what is missing."""
    extra = [dataclasses.replace(one, id=f"new {k}", start=1.0, stop=2.5) for k, one in enumerate(kitchen[::3])]
    segments, other = [*changed(kitchen, 2, label="scrub"), *extra], shutil.copytree(own, tmp_path / "other")
    fresh, _ = prepare(segments, tmp_path / "fresh")
    for rank in (1, 0):
        made, _ = prepare(segments, own, rank=rank, world_size=2)
    assert held(own) == held(fresh.path) and len(made) == 15
    scripts = []
    for rank in (0, 1):
        given = [dataclasses.astuple(one) for one in segments], OPTIONS | {"rank": rank, "world_size": 2}
        (tmp_path / f"given-{rank}").write_bytes(pickle.dumps(given))
        command = [sys.executable, "-c", KILLED, str(Path(data.__file__).parent), tmp_path / f"given-{rank}", other]
        scripts.append(subprocess.Popen(command))
    assert [script.wait(LIMIT) for script in scripts] == [0, 0]
    assert held(other) == held(fresh.path)


def with_array(path, name, width=5, fingerprint=""):
    """A store with an array that was added, whose rows tell their numbers; perhaps of a teacher."""
    store = data.ClipStore(path)
    if fingerprint:
        claim_outputs(store, name.rpartition(".")[0], {"fingerprint": fingerprint}, overwrite=True)
    store.add(name, (width,), "float32")
    store.write(name, slice(None), np.arange(float(len(store)))[:, None] + np.zeros(width, np.float32))
    return store


@pytest.mark.parametrize("name", ["clip", "mine.feature"])
def test_a_damaged_row_stays_one_until_its_window_is_cut_anew(kitchen, own, tmp_path, name):
    """It never gets a checksum that says that it is right."""
    with_array(own, "mine.feature", fingerprint="a1")
    row_of(own, name, 11).reshape(-1).view(np.uint8)[-1] ^= 64
    made, _ = prepare(changed(kitchen, 2, label="scrub"), own)
    with pytest.raises(DataError, match=rf"{name}.npy: the row 3 .* was damaged"):
        made.read(name, [11])
    assert [(one, rows) for one, rows in made.verify() if rows] == [(name, [11])]
    segments = changed(kitchen, 8, imu_offset=0.05)
    made, _ = prepare(segments, own)
    fresh, _ = prepare(segments, tmp_path / "fresh")
    assert not [one for one, rows in made.verify() if rows] and made.fingerprint == fresh.fingerprint
    assert made.done("mine.feature").tolist() == [True] * 11 + [False]


def test_logits_go_with_the_classes_and_what_is_made_of_the_imu_with_its_windows(kitchen, own):
    with_array(own, "mine.feature", 3, fingerprint="a1")
    with_array(own, "mine.logits", 3)
    with_array(own, "energy", 1)
    made, _ = prepare(changed(kitchen, 2, label="take"), own)
    assert made.class_names == ["cut", "take", "wash"] and made.done("mine.logits").all() and made.done("energy").all()
    made, _ = prepare(changed(changed(kitchen, 2, label="take"), 3, imu_offset=0.05), own)
    lacking = [clip["id"] for clip, done in zip(made.clips, made.done("energy"), strict=True) if not done]
    assert set(lacking) == {kitchen[3].id} and made.done("mine.feature").all()
    made, _ = prepare(changed(kitchen, 2, label="scrub"), own)
    assert made.done("mine.feature").all() and "mine.logits" not in made.names


def test_classes_of_a_teacher_stay(kitchen, tmp_path):
    segments = [dataclasses.replace(one, label=None) for one in kitchen]
    store, _ = prepare(segments, tmp_path / "store")
    store.name_classes(["a", "b", "c"])
    with_array(store.path, "mine.logits", 3, fingerprint="a1")
    made, _ = prepare(changed(segments, 1, wearer="P50"), store.path)
    assert made.class_names == ["a", "b", "c"] and made.done("mine.logits").all()


def test_who_had_opened_the_store_before_is_told(kitchen, own):
    """Rows of the new store are other clips."""
    reader, writer = with_array(own, "energy", 1), data.StoreWriter(own)
    view = reader.split("train")
    prepare(list(kitchen[1:]), own)
    for use in (
        lambda: reader.read("frames_1", [0]),
        lambda: view.read("energy", [0]),
        lambda: reader.write("energy", [0], np.zeros((1, 1), np.float32)),
        lambda: reader.add("other", (1,), "float32"),
        lambda: writer.note("walk.csv", ["odd"]),
        lambda: writer.fail(0, "gone"),
        writer.missing,
        lambda: writer.reset(np.array([0])),
    ):
        with pytest.raises(DataError, match="its table was edited since it was opened"):
            use()
    assert data.ClipStore(own).done("energy").all() and not [one for one, rows in data.ClipStore(own).verify() if rows]


def test_what_is_not_the_stores_stays(kitchen, own):
    (own / "notes").mkdir()
    (own / "notes" / "mine.txt").write_text("mine")
    (own / "teacher.safetensors").write_bytes(b"weights")
    own.chmod(0o2775)
    prepare(changed(kitchen, 2, label="scrub"), own)
    assert (own / "notes" / "mine.txt").read_text() == "mine" and (
        own / "teacher.safetensors"
    ).read_bytes() == b"weights"
    assert own.stat().st_mode & 0o7777 == 0o2775


def interrupt(monkeypatch, segments, path):
    """Begin an edit, up to the moment when it would happen: the store is as it was."""
    before = held(path)
    with monkeypatch.context() as patch:
        patch.setattr(edits, "commit", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            prepare(segments, path)
    assert held(path) == before


def test_outputs_of_another_teacher_since_an_interruption_count(kitchen, own, monkeypatch):
    with_array(own, "mine.feature", fingerprint="a1")
    segments = changed(kitchen, 3, imu_offset=0.05)
    interrupt(monkeypatch, segments, own)
    store = with_array(own, "mine.feature", fingerprint="b2")
    store.write("mine.feature", slice(None), np.full((12, 5), 7, np.float32))
    made, _ = prepare(segments, own)
    assert (made.read("mine.feature", slice(None)) == 7).all()
    claim_outputs(made, "mine", {"fingerprint": "b2"})


def test_another_imu_that_cannot_be_read_changes_nothing(kitchen, own):
    segments = changed(kitchen, 3, imu=(str(own / "gone-accl.csv"), str(own / "gone-gyro.csv")))
    before = files_of(own)
    with pytest.raises((ValueError, OSError), match="gone-accl"):
        prepare(segments, own)
    assert files_of(own) == before


def test_signatures_are_those_of_when_a_file_was_read(kitchen, tmp_path):
    video = tmp_path / "walk.mp4"
    shutil.copy(kitchen[0].video, video)
    segments = [dataclasses.replace(one, video=str(video)) for one in kitchen[:3]]
    prepare(segments, tmp_path / "store")
    video.unlink()
    prepare(changed(segments, 0, label="scrub"), tmp_path / "store")
    shutil.copy(kitchen[3].video, video)
    with pytest.raises(DataError, match="has changed since its clips were prepared"):
        prepare(changed(segments, 0, label="scrub"), tmp_path / "store")


def test_the_working_folder_may_be_in_the_store(kitchen, own, tmp_path, monkeypatch):
    monkeypatch.chdir(own / "shards")
    prepare(changed(kitchen, 2, label="scrub"), "..")
    assert Path.cwd() == own / "shards" and "scrub" in data.ClipStore("..").class_names


def test_a_link_to_a_store_stays_one(kitchen, own, tmp_path):
    (tmp_path / "link").symlink_to("store")
    made, _ = prepare(changed(kitchen, 2, label="scrub"), tmp_path / "link")
    assert (tmp_path / "link").is_symlink() and made.fingerprint == data.ClipStore(own).fingerprint
    assert "scrub" in data.ClipStore(own).class_names


def test_a_file_that_has_changed_is_not_taken_over(kitchen, own, tmp_path):
    video = shutil.copy(kitchen[0].video, tmp_path / "walk.mp4")
    segments = [dataclasses.replace(one, video=str(video)) for one in kitchen[:2]]
    prepare(segments, tmp_path / "one")
    shutil.copy(kitchen[3].video, video)
    with pytest.raises(DataError, match="has changed since its clips were prepared"):
        prepare(changed(segments, 0, label="scrub"), tmp_path / "one")
    assert data.ClipStore(tmp_path / "one").clips[0]["label"] == kitchen[0].label
    made, _ = prepare(changed(segments, 0, label="scrub"), tmp_path / "one", retry_failed=True)
    fresh, _ = prepare(changed(segments, 0, label="scrub"), tmp_path / "fresh")
    assert made.fingerprint == fresh.fingerprint


def test_a_changed_file_that_the_table_names_no_more_is_nobodys_business(kitchen, tmp_path):
    video = shutil.copy(kitchen[0].video, tmp_path / "walk.mp4")
    segments = [dataclasses.replace(kitchen[0], video=str(video)), *kitchen[1:4]]
    prepare(segments, tmp_path / "one")
    shutil.copy(kitchen[3].video, video)
    made, _ = prepare(segments[1:], tmp_path / "one")
    fresh, _ = prepare(segments[1:], tmp_path / "fresh")
    assert made.fingerprint == fresh.fingerprint


def after(count, holder, name):
    """Kill this process in call number `count` of a function, before it does anything."""
    real, calls = getattr(holder, name), []

    def call(*arguments, **options):
        calls.append(arguments)
        if len(calls) == count:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*arguments, **options)

    setattr(holder, name, call)


# {moment: (call number, where, which function, whether the edit has happened then)}
MOMENTS = {
    "before a window is cut anew": (1, data.StoreWriter, "write", False),
    "in the middle of cutting windows anew": (2, data.StoreWriter, "write", False),
    "before a shard has its name": (1, os, "rename", False),
    "before the note of the sources": (1, data.StoreWriter, "record_sources", False),
    "before outputs are taken over": (1, StoreFiles, "write_added", False),
    "before the marks of these outputs": (1, StoreFiles, "mark", False),
    "before the columns are written": (1, index, "write", False),
    "after the columns are written": (1, StoreFiles, "write_header", False),
    "before old columns are removed": (1, Path, "unlink", False),
    "before it decodes": (1, data, "fill", True),
    "before the shard of a new clip": (2, os, "rename", True),
    "before the first new clip": (3, data.StoreWriter, "write", True),
    "before the second new clip": (4, data.StoreWriter, "write", True),
    "before the shards go into the index": (1, StoreFiles, "merge", True),
    "before the header has what the shards know": (2, StoreFiles, "write_header", True),
}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork and SIGKILL")
@pytest.mark.parametrize("moment", MOMENTS)
def test_an_edit_that_is_killed_goes_on(kitchen, own, tmp_path, moment):
    """What is there then is the old table or the new one, whole."""
    number, holder, name, happened = MOMENTS[moment]
    (own / "mine.txt").write_text("mine")
    with_array(own, "mine.feature", fingerprint="a1")
    segments = changed(changed(kitchen, 2, label="scrub"), 4, imu_offset=0.05)[1:]
    segments = inserted(inserted(segments, 4, start=0.5, stop=2.0), 6, start=2.0, stop=3.5)
    fresh, _ = prepare(segments, tmp_path / "fresh")
    before = held(own)
    child = os.fork()
    if child == 0:
        with contextlib.suppress(BaseException):
            after(number, holder, name)
            prepare(segments, own)
        os._exit(0)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
    left = data.ClipStore(own, unfinished=True)
    assert ("scrub" in left.class_names) == happened and not [one for one, rows in left.verify() if rows]
    assert held(own) == before if not happened else left.done("mine.feature").sum() == 11
    prepare(segments, own)
    made = held(own)
    rows, values = made.pop("mine.feature")
    assert made == held(fresh.path) and (own / "mine.txt").read_text() == "mine"
    known = {(clip["video"], clip["start"]): float(k) for k, clip in enumerate(before["clips"])}
    numbers = [known.get((clip["video"], clip["start"])) for clip in made["clips"]]
    assert rows == [row for row, one in enumerate(numbers) if one is not None]
    assert np.frombuffer(values, np.float32)[::5].tolist() == [numbers[row] for row in rows]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["fresh", "store"]


def test_another_edit_takes_the_place_of_one_that_was_interrupted(kitchen, own, tmp_path, monkeypatch):
    interrupt(monkeypatch, changed(changed(kitchen, 2, label="scrub"), 4, imu_offset=0.05), own)
    segments = inserted(changed(kitchen, 3, label="rinse"), 4, start=0.5, stop=2.0)  # needs a shard of its own, too
    made, _ = prepare(segments, own)
    fresh, _ = prepare(segments, tmp_path / "fresh")
    assert held(made.path) == held(fresh.path)


def lose_index(path):
    shutil.rmtree(path / "index")
    (path / "store.json").unlink()


def test_an_index_is_made_anew_of_the_shards(kitchen, own, decoded):
    """Of the clips as they were begun, with all arrays; `prepare()` with the table gives them order and labels."""
    with_array(own, "mine.feature", fingerprint="a1")
    usual, pictures = held(own), {name: held for name, held in files_of(own).items() if name.startswith("shards/")}
    for lose in (lambda path: None, lose_index):
        lose(own)
        assert rebuild(own) == 12 and held(own) == usual
    clocks = [dataclasses.replace(one, imu_offset=0.05) if one.video == kitchen[0].video else one for one in kitchen]
    prepare(clocks, own)
    assert rebuild(own) == 12  # windows of another clock replace those of before
    prepare(kitchen, own)
    segments = inserted(changed(kitchen, 2, label="scrub")[1:], 4, start=0.5, stop=2.0)
    prepare(segments, own)
    usual = held(own)
    lose_index(own)
    assert rebuild(own) == 13  # the clip that is gone, too
    decoded.clear()
    _, said = prepare(segments, own)
    assert "1 gone: 0 clips to decode" in said and not decoded and held(own) == usual
    assert pictures == {name: content for name, content in files_of(own).items() if name in pictures}


@pytest.mark.parametrize("name", ["rows.npy", "clips.json"])
@pytest.mark.parametrize("content", [b"", b"{}", None])
def test_no_index_is_made_of_a_damaged_shard(own, name, content):
    file = own / "shards" / "00001" / name
    content = file.read_bytes()[:-9] if content is None else content
    file.write_bytes(content)
    usual = files_of(own)
    with pytest.raises(DataError, match=r"shards.00001.*is damaged.*without its clips"):
        rebuild(own)
    assert files_of(own) == usual
    shutil.rmtree(own / "shards")
    with pytest.raises(DataError, match="has no shards"):
        rebuild(own)
