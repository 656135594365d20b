"""HD-EPIC and Ego-Exo4D, on files made in their formats: what is read, what is left out, and what errors say."""

import csv
import doctest
import json
import shutil
import struct
import sys
from pathlib import Path

import aria_datasets
import numpy as np
import pytest
from aria_datasets import read_ego_exo4d, read_hd_epic
from painted import write_table, write_video
from vrs import LEFT, ZERO, write_vrs

from egodistill import DataError, data
from egodistill.commands import cli
from egodistill.datasets import annotations

STRETCH = 1.0005  # seconds of the glasses' clock per second of a video
P01, P08 = "P01-20240202-110250", "P08-20240303-120000"
SECONDS = 12


def stamp(seconds):
    """The time on the glasses' clock, in ns, of a time in a video."""
    return ZERO + np.int64(np.round(np.asarray(seconds) * STRETCH * 1e9))


def write_imu(path):
    """A VRS file without pictures, whose X reads the time in the video, and whose Z reads gravity."""
    path.parent.mkdir(parents=True, exist_ok=True)
    times = np.arange(-0.5, SECONDS + 0.5, 1 / 200)
    rows = [
        (3, struct.pack("<2Bdq6f", 1, 1, 30.0, at, 0, t / 10, 0, -9.8, t, 0))
        for t, at in zip(times, stamp(times), strict=True)
    ]
    return write_vrs(path, {LEFT: rows})


def write_film(path, fps=30):
    path.parent.mkdir(parents=True, exist_ok=True)
    return write_video(path, np.arange(SECONDS * fps) / fps, preset="ultrafast")


@pytest.fixture(scope="session")
def film(tmp_path_factory):
    """A video and the IMU that belongs to it."""
    folder = tmp_path_factory.mktemp("film")
    return write_film(folder / "a.mp4"), write_imu(folder / "a.vrs")


def place(source, *target):
    target = Path(*target)
    target.parent.mkdir(parents=True, exist_ok=True)
    return shutil.copy(source, target)


@pytest.fixture
def make_table(monkeypatch, tmp_path):
    """Run the program, as typed; returns the table that it writes."""

    def run(path, root, *words):
        out = tmp_path / "segments.csv"
        out.unlink(missing_ok=True)
        given = [str(path), "--root", str(root), "--out", str(out), *words]
        monkeypatch.setattr(sys, "argv", ["aria_datasets.py", *given])
        aria_datasets.main()
        return out

    return run


def check_clock(found):
    """The samples of a segment's recording are those of its video."""
    window = found.recording.motion().window(found.start)
    np.testing.assert_allclose(window[:, 0], found.start + np.arange(422) / 198, atol=2e-5)
    np.testing.assert_allclose(window[:, [2, 5]], [[9.8, 0]] * 422, atol=1e-5)


# --- HD-EPIC


TIMES = np.arange(SECONDS * 30) / 30  # of the frames


def write_clock(path, times=TIMES, stamps=None):
    rows = [
        (repr(float(t) * 1e9), int(at) - ZERO, int(at))
        for t, at in zip(times, stamp(times) if stamps is None else stamps, strict=True)
    ]
    return write_table(path, ("mp4_time_ns", "relative_vrs_device_time_ns", "vrs_device_time_ns"), rows)


@pytest.fixture
def hd_epic(tmp_path, film):
    """The folder of two videos, one of a wearer for training and one for evaluation."""
    root = tmp_path / "HD-EPIC"
    for video in (P01, P08):
        place(film[0], root / "Videos" / video[:3] / f"{video}.mp4")
        place(film[1], root / "VRS" / video[:3] / f"{video}_anonymized.vrs")
        write_clock(root / "Videos" / video[:3] / f"{video}_mp4_to_vrs_time_ns.csv")
    return root


def write_narrations(path, columns):
    """Write {name: list} as `pandas.DataFrame.to_csv()` does: with an index, lists as text, and "" for NaN."""
    rows = [["" if cell != cell else cell for cell in row] for row in zip(*columns.values(), strict=True)]
    return write_table(path, ("", *columns), [(k, *row) for k, row in enumerate(rows)])


def narrations(*rows):
    """Columns of the narrations for rows (video, start, stop, main actions, their words)."""
    return {
        "unique_narration_id": [f"{row[0]}-{k}" for k, row in enumerate(rows)],
        "participant_id": [row[0][:3] for row in rows],
        "video_id": [row[0] for row in rows],
        "start_timestamp": [row[1] for row in rows],
        "end_timestamp": [row[2] for row in rows],
        "main_action_classes": [row[3] for row in rows],
        "main_actions": [row[4] for row in rows],
    }


ROWS = (
    (P01, 1.0, 3.5, [(3, 3)], [("open", "door")]),
    (P01, 4.0, 7.0, [(9, 1), (3, 3)], [("cut", "leek"), ("open", "door")]),
    (P08, 2.0, 4.5, [(3, 5)], [("open up", "lid")]),
    (P08, 5.0, 8.0, [(9, 1)], [("cut", "bread")]),
    (P01, 8.0, 9.0, [(3, 1)], [("open", "bread")]),
)


def test_hd_epic_becomes_a_store(hd_epic, tmp_path, make_table, capsys):
    """By a table for all commands, with the samples of the glasses at the times of the video."""
    path = write_narrations(hd_epic / "HD_EPIC_Narrations.csv", narrations(*ROWS))
    found = read_hd_epic(path, hd_epic)
    assert found == read_hd_epic(path, tmp_path)
    assert found.dropped == {} and [s.label for s in found] == ["open", "cut", "open", "cut", "open"]
    first = found[0]
    assert (first.id, first.start, first.stop, first.wearer) == (f"{P01}-0", 1.0, 3.5, "P01")
    assert first.video == str(hd_epic / f"Videos/P01/{P01}.mp4")
    assert first.imu == str(hd_epic / f"VRS/P01/{P01}_anonymized.vrs")
    assert [s.split for s in found] == ["train", "train", "test", "test", "train"]
    assert first.imu_stretch == pytest.approx(1 / STRETCH, abs=1e-9)
    check_clock(found[1])
    table = make_table(path, hd_epic)
    assert capsys.readouterr().out == f"{table}: 5 segments\n"
    with open(table, newline="") as file:
        assert next(csv.reader(file)) == "video start stop label imu split id imu_offset imu_stretch wearer".split()
    assert data.read_csv(table) == found == annotations.read_annotations(table)
    options = ["--frame-size", "16", "--workers", "1"]
    assert cli.main(["prepare", str(table), "--out", str(tmp_path / "store"), *map(str, options)]) == 0
    store = data.ClipStore(tmp_path / "store")
    assert len(store.split("test")) == 4 and store.class_names == ["cut", "open"]
    np.testing.assert_allclose(store.read("imu", [0])[0, 0, 0], 1.0 + 0.0, atol=0.4)
    assert cli.main(["check", str(table), "--no-offset"]) == 0 and P08 in capsys.readouterr().out


def test_a_table_says_what_it_leaves_out_and_replaces_nothing(hd_epic, make_table, monkeypatch, capsys):
    rows = [*ROWS, (P01, 1.0, 2.0, [], []), (P01, 2.0, 2.0, [(3, 3)], [])]
    path = write_narrations(hd_epic / "a.csv", narrations(*rows))
    monkeypatch.chdir(hd_epic)
    table = make_table("a.csv", ".")  # whose paths hold elsewhere, too
    assert capsys.readouterr().out.splitlines()[1:] == [
        "left out 1: no main action",
        "left out 1: start and end are not in order",
    ]
    assert data.read_csv(table) == read_hd_epic(path, hd_epic)
    assert [s.label for s in data.read_csv(make_table(path, hd_epic, "--min-instances", "3"))] == ["open"] * 3
    for words, told in (
        (["a.csv", "--out", str(table)], f"{table}: File exists"),
        (["none.csv", "--out", "new.csv"], "none.csv: cannot be read: No such file or directory"),
        (["a.csv", "--out", "new.csv", "--root", str(table.parent / "none")], "expected are Videos/<Pxx>/"),
    ):
        before = table.read_bytes()
        monkeypatch.setattr(sys, "argv", ["aria_datasets.py", "--root", ".", *words])
        with pytest.raises(SystemExit) as ended:
            aria_datasets.main()
        assert told in str(ended.value) and table.read_bytes() == before and not Path("new.csv").exists()


def test_the_commands_name_the_example(hd_epic, tmp_path, capsys):
    """Both files are known, and are no table of segments."""
    one = write_narrations(hd_epic / "a.csv", narrations(*ROWS))
    other = keysteps(tmp_path / "keystep_val.json", {COOK: [keystep(1.0, 2.0)]})
    for path, told in ((one, "narrations of HD-EPIC, which become"), (other, "Keysteps of Ego-Exo4D become")):
        assert cli.main(["prepare", str(path), "--out", str(tmp_path / "store")]) == 1
        said = capsys.readouterr().err
        assert f"{path}: " in said and f"{told} a table with examples/aria_datasets.py" in said


def test_examples_in_the_docstrings(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE | doctest.IGNORE_EXCEPTION_DETAIL
    assert doctest.testmod(aria_datasets, optionflags=flags) == (0, 10)


def test_hd_epic_labels_splits_and_the_table_of_classes(hd_epic):
    path = write_narrations(hd_epic / "a.csv", narrations(*ROWS))
    parts = read_hd_epic(path, hd_epic, evaluation_wearers=["P01"], validation_wearers=["P08"])
    assert [s.split for s in parts] == ["test", "test", "validation", "validation", "test"]
    assert {s.split for s in read_hd_epic(path, hd_epic, split="all")} == {"all"}
    with pytest.raises(DataError, match="P08: a wearer cannot be for both"):
        read_hd_epic(path, hd_epic, validation_wearers=["P08"])
    few = read_hd_epic(path, hd_epic, min_instances=3)
    assert {s.label for s in few} == {"open"} and few.dropped == {"the class has fewer than 3 segments": 2}
    write_table(hd_epic / "HD_EPIC_verb_classes.csv", ("id", "key", "instances"), [(3, "open-up", 1), (9, "slice", 1)])
    assert [s.label for s in read_hd_epic(path, hd_epic)[:2]] == ["open-up", "slice"]
    write_table(hd_epic / "HD_EPIC_verb_classes.csv", ("id", "key"), [(3, "open-up")])
    with pytest.raises(DataError, match=r"HD_EPIC_verb_classes\.csv: verb class 9 is missing"):
        read_hd_epic(path, hd_epic)


def test_hd_epic_with_the_columns_that_are_needed(hd_epic):
    columns = narrations(*ROWS)
    whole = read_hd_epic(write_narrations(hd_epic / "whole.csv", columns), hd_epic)
    names = ("video_id", "start_timestamp", "end_timestamp", "main_action_classes")
    short = write_table(hd_epic / "short.csv", names, zip(*map(columns.get, names), strict=True))
    found = read_hd_epic(short, hd_epic)
    assert [(s.start, s.video, s.wearer) for s in found] == [(s.start, s.video, s.wearer) for s in whole]
    assert [s.label for s in found] == ["verb", "verb (9)", "verb", "verb (9)", "verb"]
    assert len({s.id for s in found}) == 5


def test_hd_epic_counts_what_it_leaves_out(hd_epic):
    other = "P02-20240101-000000"
    rows = [
        *ROWS,
        (P01, 1.0, 2.0, [], []),
        (P01, 2.0, 2.0, [(3, 3)], []),
        (P01, float("nan"), 2.0, [(3, 3)], []),
        (other, 1.0, 2.0, [(3, 3)], []),
    ]
    path = write_narrations(hd_epic / "a.csv", narrations(*rows))
    expected = {
        "no main action": 1,
        "start and end are not in order": 1,
        "no times": 1,
        "the video is missing": 1,
    }
    found = read_hd_epic(path, hd_epic)
    assert found.dropped == expected and [(one.start, one.stop) for one in found.origin.left_out] == [(1.0, 2.0)]
    folder, vrs = hd_epic / "Videos" / "P08", hd_epic / f"VRS/P08/{P08}_anonymized.vrs"
    clock, video = folder / f"{P08}_mp4_to_vrs_time_ns.csv", folder / f"{P08}.mp4"
    jump = stamp(TIMES) + np.int64(2e8) * (TIMES > 6)
    for words, change in (
        ("the video has no VRS file, which has the IMU", lambda: vrs.rename(vrs.with_suffix(".old"))),
        ("the video has no table _mp4_to_vrs_time_ns.csv, ", lambda: clock.unlink()),
        (f"{clock}: no column vrs_device_time_ns; its header is", lambda: clock.write_text("mp4_time_ns,x\n0,1\n")),
        (f"{clock}, row 2: vrs_device_time_ns 'x' is not a number", lambda: write_table(clock, HEAD, [("0", "x")])),
        (f"{clock}: ends at 6.000 s, but {video} at 12.000 s", lambda: write_clock(clock, TIMES[:180])),
        (f"{clock}: the frame at ", lambda: write_clock(clock, TIMES, jump)),
        (f"{clock}: 1 different times of frames", lambda: write_clock(clock, TIMES, np.full(len(TIMES), ZERO))),
        ("the video cannot be opened", lambda: video.write_bytes(b"broken")),
    ):
        change()
        found = read_hd_epic(path, hd_epic)
        assert {s.wearer for s in found} == {"P01"}
        (reason,) = set(found.dropped) - set(expected)
        assert reason.startswith(words) and found.dropped[reason] == 2
        if words.startswith("the video has no VRS"):
            vrs.with_suffix(".old").rename(vrs)


HEAD = ("mp4_time_ns", "vrs_device_time_ns")


@pytest.mark.parametrize("row", [10, SECONDS * 30])
def test_an_empty_cell_does_not_cost_the_whole_video(hd_epic, row):
    """The end of its table was "nan s"."""
    table = hd_epic / f"Videos/P01/{P01}_mp4_to_vrs_time_ns.csv"
    spoil(table, row, ",," + table.read_text().splitlines()[row].split(",")[2])
    found = read_hd_epic(write_narrations(hd_epic / "a.csv", narrations(*ROWS)), hd_epic)
    assert found.dropped == {}
    check_clock(found[0])


def test_frames_that_repeat_a_time_do_not_move_the_clock(hd_epic):
    """The converter repeats the last frame where the glasses lost some: for two seconds here."""
    lost = np.where((TIMES > 3) & (TIMES < 5), 3.0, TIMES)
    write_clock(hd_epic / f"Videos/P01/{P01}_mp4_to_vrs_time_ns.csv", stamps=stamp(lost))
    found = read_hd_epic(write_narrations(hd_epic / "a.csv", narrations(*ROWS)), hd_epic)
    assert found.dropped == {}
    check_clock(found[0])


def test_hd_epic_that_cannot_be_read_is_one_sentence(hd_epic):
    path = hd_epic / "HD_EPIC_Narrations.csv"
    columns = narrations(*ROWS)
    for name in ("video_id", "end_timestamp", "main_action_classes"):
        write_narrations(path, {key: values for key, values in columns.items() if key != name})
        with pytest.raises(DataError, match=rf"^{path}: no column {name}( \(similar: .*\))?; its header is"):
            read_hd_epic(path, hd_epic)
    for name, value, words in (
        ("video_id", "../P01", r"'\.\./P01' is not a video id"),
        ("video_id", "", "'' is not a video id"),
        ("participant_id", "P/1", "'P/1' is not a participant id"),
        ("start_timestamp", "soon", "start_timestamp 'soon' is not a number"),
        ("main_action_classes", 7, r"main_action_classes '7' is not a list such as \[\(3, 3\)\]"),
        ("main_action_classes", [("open", 3)], "main_action_classes .* is not a list"),
        ("main_action_classes", [(2.5, 3)], "main_action_classes .* is not a list"),
        ("main_action_classes", "[(3; 3)]", "main_action_classes .* is not a list"),
        ("main_action_classes", "(" * 5000, "main_action_classes .* is not a list"),
        ("main_action_classes", "__import__('os').system('touch ran')", "main_action_classes .* is not a list"),
    ):
        write_narrations(path, columns | {name: [*columns[name][:2], value, *columns[name][3:]]})
        with pytest.raises(DataError, match=rf"^{path}, row 4: {words}"):
            read_hd_epic(path, hd_epic)
    assert not Path("ran").exists()
    path.write_bytes(b"\x80\x04cos\nsystem\n(S'touch ran'\ntR.")  # the pickle, not the CSV that was made of it
    with pytest.raises(DataError, match=rf"^{path}"):
        read_hd_epic(path, hd_epic)
    write_narrations(path, narrations(("P03-1", 1.0, 2.0, [(3, 3)], [])))
    with pytest.raises(
        DataError, match=r"no usable segment \(1 segments: the video is missing\); expected are Videos/<P"
    ):
        read_hd_epic(path, hd_epic)


# Rows of shared/data/hd-epic/made_up_narrations_pandas2.2.pkl, as to_csv() of pandas 2.2 writes them.
OF_PANDAS = """\
,unique_narration_id,participant_id,video_id,narration,start_timestamp,end_timestamp,nouns,verbs,pairs,main_actions,\
verb_classes,noun_classes,pair_classes,main_action_classes,hands,narration_timestamp
0,V-1,P99,V,Made-up narration number 0.,7.44,8.75,['cupboard'],['open'],"[('open', 'cupboard')]",\
"[('open', 'cupboard')]",[3],[3],"[(3, 3)]","[(3, 3)]",['left hand'],7.94
2,V-3,P99,V,Made-up narration number 2.,10.040000000000001,11.35,['cupboard'],['open'],"[('open', 'cupboard')]",\
"[('open', 'cupboard')]",[3],[3],"[(3, 3)]","[(3, 3)]",['left hand'],10.540000000000001
5,V-6,P99,V,Made-up narration number 5.,13.940000000000001,15.25,"['cupboard', 'handle of cupboard']",\
"['open', 'hold']","[('open', 'cupboard'), ('hold', 'handle of cupboard')]","[('open', 'cupboard')]","[3, 34]",\
"[3, 3]","[(3, 3), (34, 3)]",[],['left hand'],14.440000000000001
"""


def test_narrations_that_pandas_wrote(tmp_path, film):
    video = "P99-20240202-110250"
    place(film[0], tmp_path / "Videos" / "P99" / f"{video}.mp4")
    place(film[1], tmp_path / "VRS" / "P99" / f"{video}_anonymized.vrs")
    write_clock(tmp_path / "Videos" / "P99" / f"{video}_mp4_to_vrs_time_ns.csv")
    path = tmp_path / "HD_EPIC_Narrations.csv"
    path.write_text(OF_PANDAS.replace("V-", f"{video}-").replace(",V,", f",{video},"))
    found = read_hd_epic(path, tmp_path)
    assert [(one.start, one.stop, one.label, one.id) for one in found] == [
        (7.44, 8.75, "open", f"{video}-1"),
        (10.040000000000001, 11.35, "open", f"{video}-3"),
    ]
    assert found.dropped == {"no main action": 1}


def test_frames_that_lack_one_of_their_times_say_nothing_of_the_clock():
    stamps, seconds = np.array([7.0, 8.0, np.nan, 10.0, 11.0]) * 1e9, np.array([0.5, 1.5, 2.5, np.nan, 4.5])
    assert aria_datasets.FrameTimes("t.csv", stamps, seconds, 5.0).line() == pytest.approx((-6.5, 1.0))


def test_the_clock_that_the_makers_tool_wrote(sample, tmp_path):
    """reference: residual 0.014 ms, stretch 1.00006."""
    table = sample("hd-epic/example_mp4_to_vrs_time_ns.csv")
    rows = np.loadtxt(table, delimiter=",", skiprows=1)
    times = aria_datasets.FrameTimes(table, rows[:, 2], rows[:, 0] * 1e-9, 0.3)
    offset, stretch = times.line()
    off = offset + stretch * rows[:, 2] * 1e-9 - rows[:, 0] * 1e-9
    assert np.abs(off).max() < 2e-5 and stretch == pytest.approx(1.00006, abs=2e-5)


# --- Ego-Exo4D

COOK, FIX = "cook-uid-1", "fix-uid-2"


def take(uid, name, start, **others):
    cameras = [
        {"cam_id": "cam01", "is_ego": False},
        {"cam_id": "gp05", "is_ego": True},
        {"cam_id": "aria02", "is_ego": True},
    ]
    return {
        "take_uid": uid,
        "take_name": name,
        "root_dir": f"takes/{name}",
        "capture": {"capture_name": "sfu_capture_1", "cameras": cameras},
        "timesync_start_idx": start,
        "timesync_end_idx": start + SECONDS * 30 - 1,
        "participant_uid": 17,
        **others,
    }


def keystep(start, stop, uid="s1", name="Cut leek", **others):
    return {"start_time": start, "end_time": stop, "step_unique_id": uid, "step_name": name, "step_id": 1, **others}


def keysteps(path, takes, **others):
    entries = {
        uid: {"take_uid": uid, "take_name": uid, "scenario": "x", "segments": steps} for uid, steps in takes.items()
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"taxonomy": {}, "annotations": entries, "vocabulary": {}, **others}))
    return path


STARTS = {COOK: 40, FIX: 700}  # rows of timesync.csv


@pytest.fixture
def ego_exo(tmp_path, film):
    """Two takes of one capture, whose clock table has rows before, between and after them."""
    root = tmp_path / "egoexo"
    for name in ("cook_1", "fix_1"):
        place(film[0], root / f"takes/{name}/frame_aligned_videos/downscaled/448/aria02_214-1.mp4")
        place(film[1], root / f"takes/{name}/aria02_noimagestreams.vrs")
    rows = np.empty((1200, 3), object)
    rows[:] = ""
    for start in STARTS.values():
        rows[start : start + SECONDS * 30, 1] = [f"{int(at)}.0" for at in stamp(TIMES)]
    rows[100:130, 1] = ""
    (root / "captures/sfu_capture_1").mkdir(parents=True)
    header = ("", "aria02_214-1_capture_timestamp_ns", "cam01_pts")
    write_table(root / "captures/sfu_capture_1/timesync.csv", header, rows)
    takes = [take(COOK, "cook_1", STARTS[COOK]), take(FIX, "fix_1", STARTS[FIX])]
    (root / "takes.json").write_text(json.dumps(takes))
    keysteps(root / "annotations/keystep_train.json", {COOK: [keystep(1.0, 3.5), keystep(4.0, 7.0, "s2", "Wash")]})
    keysteps(root / "annotations/keystep_val.json", {FIX: [keystep(2.0, 4.5), keystep(5.0, 8.0, "s2", "Wash")]})
    return root


def test_ego_exo4d_becomes_a_store(ego_exo, tmp_path, make_table):
    path = ego_exo / "annotations" / "keystep_train.json"
    found = read_ego_exo4d(path, ego_exo)
    assert found == read_ego_exo4d(path, ego_exo) and found.dropped == {}
    assert found == sorted(read_ego_exo4d(path.with_name("keystep_val.json"), ego_exo), key=lambda s: s.id)
    assert [(s.id, s.start, s.stop, s.label, s.split, s.wearer) for s in found] == [
        (f"{COOK}_0", 1.0, 3.5, "Cut leek", "train", "17"),
        (f"{COOK}_1", 4.0, 7.0, "Wash", "train", "17"),
        (f"{FIX}_0", 2.0, 4.5, "Cut leek", "test", "17"),
        (f"{FIX}_1", 5.0, 8.0, "Wash", "test", "17"),
    ]
    assert found[0].video == str(ego_exo / "takes/cook_1/frame_aligned_videos/downscaled/448/aria02_214-1.mp4")
    assert found[0].imu == str(ego_exo / "takes/cook_1/aria02_noimagestreams.vrs")
    for segment in found:
        check_clock(segment)
    table = make_table(path, ego_exo)
    assert data.read_csv(table) == found
    assert cli.main(["prepare", str(table), "--out", str(tmp_path / "s"), "--frame-size", "16", "--workers", "1"]) == 0
    store = data.ClipStore(tmp_path / "s")
    assert len(store.split("train")) == len(store.split("test")) == 4


def test_ego_exo4d_prefers_full_videos_and_reads_lists(ego_exo, film, monkeypatch):
    path = ego_exo / "annotations" / "keystep_train.json"
    monkeypatch.chdir(path.parent)
    inside = read_ego_exo4d(path.name, "..")
    assert [s.id for s in inside] == [s.id for s in read_ego_exo4d(path, ego_exo)]
    assert inside[0].video.startswith("../takes/cook_1/")
    whole = ego_exo / "takes/cook_1/frame_aligned_videos/aria02_214-1.mp4"
    place(film[0], whole)
    imu = ego_exo / "takes/cook_1/aria02.vrs"
    (ego_exo / "takes/cook_1/aria02_noimagestreams.vrs").rename(imu)
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | {"annotations": list(content["annotations"].values())}))
    found = read_ego_exo4d(path, ego_exo)
    assert (found[0].video, found[0].imu, found[0].id) == (str(whole), str(imu), f"{COOK}_0")


def test_ego_exo4d_splits_and_names(ego_exo):
    path = ego_exo / "annotations" / "keystep_train.json"
    (ego_exo / "annotations" / "keystep_val.json").unlink()
    steps = [keystep(1.0, 2.0), keystep(1.0, 2.0, "s2", "Cut leek"), keystep(2.0, 3.0, "s2", "Cut leek")]
    keysteps(path, {COOK: steps, FIX: steps[:1]})
    found = read_ego_exo4d(path, ego_exo)
    assert [s.label for s in found] == ["Cut leek", "Cut leek (s2)", "Cut leek (s2)", "Cut leek"]  # of two classes
    assert {s.split for s in found} == {"train"}
    few = read_ego_exo4d(path, ego_exo, min_instances=2)
    assert len(few) == 4 and len(read_ego_exo4d(path, ego_exo, min_instances=3)) == 0
    splits = ego_exo / "annotations" / "splits.json"
    splits.write_text(json.dumps({"take_uid_to_split": {COOK: "val", FIX: "train"}}))
    assert [s.split for s in read_ego_exo4d(path, ego_exo)] == ["test", "test", "test", "train"]
    moved = path.rename(path.with_name("mine.json"))
    assert len(read_ego_exo4d(moved, ego_exo)) == 4
    for content, words in (
        ({"take_uid_to_split": {COOK: "val"}}, f"{moved}: the split of the take {FIX} is unknown; put splits.json"),
        ([], f"{splits}: no 'take_uid_to_split'"),
        ({"take_uid_to_split": {COOK: "dev"}}, f"{moved}: the split of the take {COOK} is unknown"),
        ({"take_uid_to_split": {COOK: ["val"]}}, f"{moved}: the split of the take {COOK} is unknown"),
    ):
        splits.write_text(json.dumps(content))
        with pytest.raises(DataError, match=words):
            read_ego_exo4d(moved, ego_exo)


def change_take(root, **changes):
    alone = {"capture_name": "another", "cameras": [{"cam_id": "aria02", "is_ego": True}]}
    takes = [take(COOK, "cook_1", STARTS[COOK]) | changes, take(FIX, "fix_1", STARTS[FIX], capture=alone)]
    (root / "takes.json").write_text(json.dumps(takes))


def test_ego_exo4d_counts_what_it_leaves_out(ego_exo):
    path, folder = ego_exo / "annotations" / "keystep_train.json", ego_exo / "takes" / "cook_1"
    video, imu = folder / "frame_aligned_videos/downscaled/448/aria02_214-1.mp4", folder / "aria02_noimagestreams.vrs"
    table = ego_exo / "captures/sfu_capture_1/timesync.csv"
    steps = [keystep(1.0, 2.0), keystep(2.0, 2.0), keystep(None, 2.0), keystep(1.0, 2.0, None)]
    keysteps(path, {COOK: steps})
    expected = {"start and end are not in order": 1, "no times": 1, "the keystep has no step_unique_id": 1}
    assert read_ego_exo4d(path, ego_exo).dropped == expected
    keysteps(path, {COOK: [keystep(1.0, 2.0)]})
    text = table.read_text()
    (ego_exo / "captures" / "another").mkdir()
    (ego_exo / "captures" / "another" / "timesync.csv").write_text(text)
    own = [{"cam_id": "cam01", "is_ego": True}, {"cam_id": "aria01", "is_ego": False}]
    for words, change in (
        ("the take has no Aria glasses", {"capture": {"capture_name": "c", "cameras": own}}),
        ("the take has no rows of timesync.csv", {"timesync_end_idx": None}),
        ("the take has no rows of timesync.csv", {"timesync_start_idx": None}),
        ("the take has no rows of timesync.csv", {"timesync_start_idx": 900}),
        (
            f"{table}: ends before row 1299, the last one of the take",
            {"timesync_start_idx": 940, "timesync_end_idx": 1299},
        ),
        (f"{table}: ends at 3.333 s, but {video} at 12.000 s", {"timesync_end_idx": STARTS[COOK] + 99}),
        ("the take has no rows of timesync.csv", {"timesync_start_idx": "40"}),
        ("the take has no rows of timesync.csv", {"timesync_end_idx": 10**400}),
        (f"{ego_exo / 'takes.json'}, [0]: not in the layout", {"capture": None}),
        (f"{ego_exo / 'takes.json'}, [0]: '../x' is not a word", {"take_name": "../x"}),
        ("the capture has no timesync.csv", {"capture": take("", "", 0)["capture"] | {"capture_name": "other"}}),
        ("the take has no VRS file, which has the IMU", lambda: imu.rename(folder / "old")),
        (
            f"{table}: no column aria02_214-1_capture_timestamp_ns",
            lambda: table.write_text(text.replace("aria02", "aria")),
        ),
        (f"{table}, row 42: aria02_214-1_capture_timestamp_ns '12x' ", lambda: spoil(table, 41, ",12x,")),
        (f"{video}: has 25.0", lambda: write_film(video, 25)),
        ("the video is missing", lambda: video.unlink()),
    ):
        change_take(ego_exo, **(change if isinstance(change, dict) else {}))
        if not isinstance(change, dict):
            change()
        found = read_ego_exo4d(path, ego_exo)
        assert {Path(s.video).parts[-5] for s in found} == {"fix_1"}, words
        ((reason, count),) = found.dropped.items()
        assert reason.startswith(words) and count == 1
        if (folder / "old").exists():
            (folder / "old").rename(imu)
        table.write_text(text)


def spoil(table, number, line):
    lines = table.read_text().splitlines()
    lines[number] = line
    table.write_text("\n".join(lines) + "\n")


def test_ego_exo4d_that_cannot_be_read_is_one_sentence(ego_exo, tmp_path, make_table):
    path = ego_exo / "annotations" / "keystep_train.json"
    other = (
        r"no keysteps \('segments'\), so this is another file of Ego-Exo4D, .*; give annotations/keystep_train\.json"
    )
    where = rf"^{path}, annotations\['{COOK}'\]"
    for content, words in (
        ({"annotations": {COOK: [{"descriptions": [{"text": "C cuts", "timestamp": 1.0}]}]}}, f"{where}: {other}"),
        ({"annotations": {COOK: {"take_uid": COOK, "start_time": 1.0}}}, f"{where}: {other}"),
        ({"annotations": [3]}, rf"^{path}, annotations\[0\]: {other}"),
        ({"annotations": {"../x": {"segments": []}}}, r"'\.\./x' is not a word"),
        ({"annotations": {"gone": {"segments": []}}}, rf"the take gone is not in {ego_exo / 'takes.json'}; download"),
        ({"annotations": {COOK: {"segments": [3]}}}, rf"{where}, segments\[0\]: not a JSON object"),
        (
            {"annotations": {COOK: {"segments": [keystep("x", 2)]}}},
            rf"{where}, segments\[0\]: start_time 'x' is not a n",
        ),
        ({"annotations": {COOK: {"segments": [keystep(1, 10**400)]}}}, rf"{where}, segments\[0\]: end_time '1000"),
        ({"annotations": {}}, r"no usable segment \(it has none\)"),
        ({"takes": {COOK: "x"}}, rf"^{path}: no 'annotations' at the top level"),
        ([{"segments": []}], rf"^{path}: truncated or invalid JSON at character 0"),
    ):
        path.write_text(json.dumps(content))
        (ego_exo / "annotations" / "keystep_val.json").unlink(missing_ok=True)
        with pytest.raises(DataError, match=words):
            read_ego_exo4d(path, ego_exo)
        with pytest.raises(SystemExit, match=words):
            make_table(path, ego_exo)
        assert not (tmp_path / "segments.csv").exists()
    path.write_text('{"annotations": {"' + COOK + '": {"segments": [')
    with pytest.raises(DataError, match=r"truncated or invalid JSON at character \d+"):
        read_ego_exo4d(path, ego_exo)
    keysteps(path, {COOK: [keystep(1.0, 2.0)]})
    (ego_exo / "takes" / "cook_1" / "aria02_noimagestreams.vrs").unlink()
    with pytest.raises(
        DataError, match=r"no usable segment \(1 segments: the take has no VRS file.*\); expected are takes/"
    ):
        read_ego_exo4d(path, ego_exo)
    (ego_exo / "takes.json").unlink()
    with pytest.raises(DataError, match=r"takes\.json: not there; give the folder that has it as root \(--root\)"):
        read_ego_exo4d(path, ego_exo)


def test_takes_of_one_uid_that_differ(tmp_path):
    takes = [{"take_uid": "4e0b", "take_name": name} for name in ("a", "a", "b")]
    (tmp_path / "keystep_val.json").write_text('{"annotations": {}}')
    (tmp_path / "takes.json").write_text(json.dumps(takes))
    with pytest.raises(DataError, match=r"takes.json, \[2\]: 4e0b has an earlier entry that differs from this one"):
        read_ego_exo4d(tmp_path / "keystep_val.json", tmp_path)


def test_a_broken_recording_of_the_glasses_is_reported_by_file(ego_exo, tmp_path, make_table, capsys):
    """It is opened when clips are decoded, and is then like any other IMU that cannot be read."""
    for name in ("cook_1", "fix_1"):
        vrs = ego_exo / f"takes/{name}/aria02_noimagestreams.vrs"
        vrs.write_bytes(vrs.read_bytes()[:1000])
    path = ego_exo / "annotations" / "keystep_train.json"
    table = make_table(path, ego_exo)
    assert cli.main(["prepare", str(table), "--out", str(tmp_path / "s"), "--frame-size", "16", "--workers", "1"]) == 1
    assert "aria02_noimagestreams.vrs: ends in the middle of its description" in capsys.readouterr().err


def test_a_real_recording_in_the_folders_of_hd_epic(sample, tmp_path):
    """Video and clock table by the maker's converter, IMU from the recording that it converted."""
    video = "P01-20240202-110250"
    clock = place(
        sample("hd-epic/example_mp4_to_vrs_time_ns.csv"), tmp_path, "Videos/P01", f"{video}_mp4_to_vrs_time_ns.csv"
    )
    place(sample("aria-vrs/recording_rgb_by_vrs_to_mp4.mp4"), tmp_path, "Videos/P01", f"{video}.mp4")
    vrs = place(sample("aria-vrs/recording.vrs"), tmp_path, "VRS/P01", f"{video}_anonymized.vrs")
    path = write_narrations(tmp_path / "a.csv", narrations((video, 0.0, 0.25, [(3, 3)], [("open", "door")])))
    (found,) = read_hd_epic(path, tmp_path)
    motion, first = found.recording.motion(), np.loadtxt(clock, delimiter=",", skiprows=1)[0, 2]
    stored = data.read_imu(vrs)
    np.testing.assert_allclose(motion.gyro_time, stored.gyro_time - first * 1e-9, atol=1e-4)
    np.testing.assert_allclose(motion.accel.mean(0), [2.02, 2.64, 9.12], atol=0.0051)  # by the maker's library
    np.testing.assert_allclose(motion.gyro.mean(0), [-0.134, -0.307, -0.825], atol=0.00051)
