"""What a path means: a file is one under all its names, wherever two places compare it, and a copy is another one."""

import argparse
import ast
import csv
import itertools
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

import egodistill
from egodistill import data
from egodistill.commands import cli, models
from egodistill.datasets import segments as tables, table_checks
from egodistill.support import files, names
from egodistill.support.errors import DataError

ROOT = Path(egodistill.__file__).parent
OPTIONS = {"num_frames": 1, "frame_size": 16, "workers": 1, "progress": False}


@pytest.fixture
def place(kitchen, tmp_path, monkeypatch):
    """A working folder with a recording, films/walk.mp4 with its IMU, and another one, films/cook.mp4."""
    (tmp_path / "films").mkdir()
    (tmp_path / "elsewhere").mkdir()
    for name in ("walk", "cook"):
        shutil.copy(kitchen[0].video, tmp_path / f"films/{name}.mp4")
        motion = kitchen[0].recording.motion()
        rows = np.column_stack([motion.accel_time, motion.accel, motion.accel])
        header = "time,ax,ay,az,gx,gy,gz"
        np.savetxt(tmp_path / f"films/{name}.csv", rows, "%.6f", delimiter=",", header=header, comments="")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def link(make):
    def spelled(place):
        make(place / "films/walk.mp4", place / "films/link.mp4")
        return "films/link.mp4"

    return spelled


def other_case(place):
    if not (place / "FILMS/WALK.MP4").exists():
        pytest.skip("the disk tells upper from lower case")
    return "FILMS/WALK.MP4"


def other_folder(place):
    os.chdir(place / "elsewhere")
    return "../films/walk.mp4"


SPELLINGS = {
    "relative": lambda place: "films/walk.mp4",
    "dot": lambda place: "./films/walk.mp4",
    "up": lambda place: "elsewhere/../films/walk.mp4",
    "absolute": lambda place: str(place / "films/walk.mp4"),
    "symbolic link": link(lambda old, new: new.symlink_to(old)),
    "hard link": link(lambda old, new: new.hardlink_to(old)),
    "another working folder": other_folder,
    "another case": other_case,
}


def segment(number, video, start, split="train", label="cut", **fields):
    return data.Segment(f"s{number}", str(video), start, start + 2.0, label, split=split, **fields)


# Each place is given the recording under two names, and another recording.


def in_a_list_of_segments(first, other, cook):
    found = data.SegmentList([segment(0, first, 0), segment(1, cook, 0), segment(2, other, 3)])
    assert [one.video for one in found] == [first, cook, first]


def in_a_store_that_goes_on(first, other, cook):
    begun = data.prepare([segment(0, first, 0), segment(1, cook, 0)], "store", **OPTIONS)
    again = data.prepare([segment(0, other, 0), segment(1, cook, 0)], "store", **OPTIONS)
    assert again.fingerprint == begun.fingerprint
    with pytest.raises(DataError, match="other settings"):
        data.prepare([segment(0, cook, 0), segment(1, cook, 0)], "store", **OPTIONS)


def in_folds(first, other, cook):
    rows = [segment(0, first, 0), segment(1, other, 3), segment(2, cook, 0)]
    fold = data.folds(data.prepare(rows, "store", **OPTIONS), 2, by="video")
    assert fold[0] == fold[1] != fold[2]


def in_splits_that_overlap(first, other, cook):
    rows = [segment(0, first, 0), segment(1, other, 1, "test"), segment(2, cook, 1, "test")]
    found = [one.text for one in table_checks.find(rows) if "share moments" in one.text]
    assert len(found) == 1 and found[0].startswith("segment s1")


def in_rows_that_contradict_each_other(first, other, cook):
    rows = [segment(0, first, 0), segment(1, other, 0, label="peel"), segment(2, cook, 0, label="peel")]
    found = [one.text for one in table_checks.find(rows) if "again with the label" in one.text]
    assert len(found) == 1 and found[0].startswith("segment s1")


def in_a_table_of_clocks(first, other, cook):
    Path("clocks.csv").write_text(f"video,imu_offset\n{other},0.25\n")
    found = data.with_imu_offsets([segment(0, first, 0), segment(1, cook, 0)], "clocks.csv")
    assert [one.imu_offset for one in found] == [0.25, 0.0]


def in_a_table_of_clocks_that_is_written_again(first, other, cook):
    tables.write_imu_offsets("clocks.csv", {first: 0.25, cook: 0.5})
    tables.write_imu_offsets("clocks.csv", {other: 0.75})
    with open("clocks.csv", newline="") as file:
        assert [row["imu_offset"] for row in csv.DictReader(file)] == ["0.750", "0.500"]


def in_labels_beside_predictions(first, other, cook):
    rows = [f"{Path(other).resolve() if 'link' not in other else Path(other).absolute()},0,2,cut", f"{cook},2,4,peel"]
    Path("labels.csv").write_text("\n".join(["video,start,stop,label", *rows]) + "\n")
    given = argparse.Namespace(labels="labels.csv", root=None, tier=None)
    assert [one.label for one in models.labels_of_video(given, first, ["cut", "peel"])] == ["cut"]


def in_an_output_that_is_an_input(first, other, cook):
    with pytest.raises(DataError, match="also an input"):
        files.require_apart(other, [first])
    files.require_apart(cook, [first])


def in_recordings_that_are_checked(first, other, cook):
    a = cli.parse(["check", first, cook, other, "--no-offset"])
    from egodistill.commands import recordings

    assert list(recordings.recordings_to_check(a)) == [first, cook]


PLACES = [value for name, value in [*globals().items()] if name.startswith("in_")]


@pytest.mark.parametrize("where", PLACES, ids=lambda where: where.__name__)
@pytest.mark.parametrize("spelling", SPELLINGS)
def test_a_file_is_one_under_all_its_names(place, spelling, where):
    other = SPELLINGS[spelling](place)
    first, cook = (os.path.relpath(place / f"films/{name}.mp4") for name in ("walk", "cook"))
    where(first, other, cook)


def test_videos_of_one_name_are_drawn_for_testing_each(place):
    for day in ("day1", "day2", "day3"):
        (place / day).mkdir()
        shutil.copy(place / "films/walk.mp4", place / day / "cam.mp4")
    tasks = [
        {
            "data": {"video": f"{day}/cam.mp4"},
            "annotations": [{"result": [{"value": {"start": 0, "end": 2, "labels": ["cut"]}}]}],
        }
        for day in ("day1", "day2", "day3", "./day1")
    ]
    Path("labels.json").write_text(json.dumps(tasks))
    found = data.read_labels("labels.json")
    splits = {one.video: one.split for one in found}
    assert len(splits) == 3 and [*splits.values()].count("test") == 1 and found[3].video == found[0].video
    elsewhere = data.read_labels(place / "labels.json")
    assert [one.split for one in elsewhere] == [one.split for one in found]


def test_the_rows_of_one_recording_have_one_split(place):
    (place / "films/link.mp4").symlink_to("walk.mp4")
    for seed in range(8):
        Path("list.csv").write_text(
            "video,start,stop\nfilms/walk.mp4,0,2.2\nfilms/link.mp4,3,5.2\nfilms/cook.mp4,0,2.2\n"
        )
        found = data.read_recordings("list.csv", data.Windows(seed=seed))
        assert len({one.split for one in found if one.video == "films/walk.mp4"}) == 1
        assert {one.split for one in found} == {"train", "test"}


def test_a_copy_is_another_file(place):
    assert not names.is_same("films/walk.mp4", "films/cook.mp4")
    assert not names.is_same("films/gone.mp4", "films/lost.mp4")
    assert names.is_same("films/gone.mp4", f"{place}/films/./gone.mp4")
    (place / "films/gone.mp4").touch()
    assert names.identity("films/gone.mp4") != names.identity("films/walk.mp4")


def test_where_a_file_system_has_no_numbers_the_real_path_counts(place, monkeypatch):
    (place / "films/link.mp4").symlink_to("walk.mp4")
    real = os.stat

    def numberless(path, **options):
        found = real(path, **options)
        return os.stat_result((found[0], 0, *found[2:]))

    monkeypatch.setattr(os, "stat", numberless)
    assert names.is_same("films/link.mp4", "films/walk.mp4") and not names.is_same("films/walk.mp4", "films/cook.mp4")


@pytest.mark.parametrize("way", ["moved", "copied", "opened elsewhere"])
@pytest.mark.parametrize("absolute", [True, False])
def test_a_store_that_was_moved_with_its_recordings_goes_on(place, tmp_path, way, absolute):
    """Of a copy, the recordings beside it count, not those that stayed."""
    project = tmp_path / "project"
    project.mkdir()
    shutil.move(place / "films", project / "films")
    os.chdir(project)
    films = project / "films" if absolute else Path("films")
    rows = [segment(0, films / "walk.mp4", 0), segment(1, films / "cook.mp4", 0)]
    before = data.prepare(rows, "run/store", **OPTIONS).fingerprint
    now = project
    if way != "opened elsewhere":
        now = tmp_path / "new" / "name"
        now.parent.mkdir()
        (shutil.move if way == "moved" else shutil.copytree)(project, now)
    os.chdir(tmp_path)
    store = data.ClipStore(now / "run/store")
    pairs = zip(store.clips, ("walk", "cook"), strict=True)
    assert all(names.is_same(clip["video"], now / f"films/{name}.mp4") for clip, name in pairs)
    rows = [segment(0, now / "films/walk.mp4", 0), segment(1, now / "films/cook.mp4", 0)]
    assert data.prepare(rows, now / "run/store", **OPTIONS).fingerprint == before
    shutil.copy(now / "films/walk.csv", now / "films/cook.mp4")
    told = "other settings" if way == "copied" else "has changed since its clips were prepared"  # the first one stayed
    with pytest.raises(DataError, match=told):
        data.prepare(rows, now / "run/store", **OPTIONS)


def test_another_file_in_that_place_is_not_taken_for_one_that_stayed(place):
    """As where two wearers' recordings have equal names."""
    begun = names.Place(str(place), str(place / "day1/run"))
    for day, content in (("day1", "first"), ("day2", "another")):
        (place / day).mkdir()
        (place / day / "cam.mp4").write_text(content)
    old, new = (str(place / day / "cam.mp4") for day in ("day1", "day2"))
    assert begun.find("day1/cam.mp4", "day1/run") == "day1/cam.mp4"
    assert begun.find("day1/cam.mp4", "day2/run") == "day1/cam.mp4" and begun.find(old, "day2/run") == old
    Path(new).write_text("first")  # a copy of the project
    assert begun.find("day1/cam.mp4", "day2/run") == new
    Path(old).unlink()
    Path(new).write_text("another")
    assert begun.find("day1/cam.mp4", "day2/run") == new


SPELLED = {"abspath", "realpath", "resolve", "samefile", "st_ino", "normcase"}
# The bricks import no sibling, and give libraries absolute paths, which are no addresses; a store knows its own files.
OWN = {"gpmf", "video", "deploy.feeds", "egodistill", "datasets.store_files", "support.custom", "support.processes"}


def test_only_one_module_says_what_a_path_means():
    found = set()
    rooms = [sign.parent for sign in ROOT.glob("*/__init__.py")]
    for path in itertools.chain(ROOT.glob("*.py"), *(room.glob("*.py") for room in rooms)):
        module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute) and node.attr in SPELLED and ast.unparse(node.value) != "custom":
                found.add(module)
    assert found - OWN - {"setup"} == {"support.names"}, found
