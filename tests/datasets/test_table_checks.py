"""Contradictions in tables: each kind is seen, named with its row, and nothing else is said."""

import csv
import json
import random
import shutil
from pathlib import Path

import numpy as np
import pytest
from heads import write_log
from painted import write_epic_imu, write_table

from egodistill import DataError, data
from egodistill.datasets import segments, table_checks
from egodistill.recordings.recording import probe_videos
from egodistill.recordings.spec import clip_starts
from egodistill.video import VideoInfo
from egodistill.world import synthetic

LENGTH = 60.0  # seconds of each video
PLAIN = "video,start,stop,label"
SPLIT = "video,start,stop,label,split"


def read(folder, header, *rows):
    """The segments of a table in a folder where the files exist that it may name, and their headers."""
    for name in ("a.mp4", "b.mp4", "a.csv", "b.csv", "c.csv", "x/s.mp4", "y/s.mp4", "x/imu.csv", "y/imu.csv"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).touch()
    (folder / "t.csv").write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
    found = segments.read_csv(folder / "t.csv")
    return found, {one.video: VideoInfo(LENGTH, 30.0, 64, 48) for one in found}


def lines(folder, found):
    return [(one.is_error, one.text.removeprefix(f"{folder}/t.csv, ")) for one in found]


TRAIN = "a.mp4,0,3,cut", "a.mp4,4,7,peel"  # rows 2 and 3


def rows_of(count, label):
    """Rows of one label."""
    return [f"a.mp4,{5 * k},{5 * k + 3},{label}" for k in range(count)]


# (header, rows from the second on, whether it is an error, the start of the only line)
CASES = {
    "a row twice": (PLAIN, (*TRAIN, "a.mp4,0,3,cut"), False, "row 4: repeats row 2, so it counts twice; remove one"),
    "a row twice, a float off": (PLAIN, (*TRAIN, "a.mp4,0,3.0001,cut"), False, "row 4: repeats row 2"),
    "a row twice, once without label": (PLAIN, (*TRAIN, "a.mp4,0,3,"), False, "row 4: repeats row 2"),
    "rows twice": (
        PLAIN,
        (*TRAIN, *(4 * ("a.mp4,0,3,cut",))),
        False,
        "row 4: repeats row 2, so it counts twice; remove one (and 3 more)",
    ),
    "two labels": (
        PLAIN,
        (*TRAIN, "a.mp4,0,3,peel"),
        True,
        "row 4: is row 2 again with the label 'peel' instead of 'cut'; a segment has one label",
    ),
    "labels that overlap": (
        PLAIN,
        (*TRAIN, "a.mp4,0.5,3,peel", "a.mp4,0.5,2.7,peel"),
        False,
        "row 4: 2.5 s with the label 'peel' are also in row 2 with 'cut'; shorten one, or leave it out (and 1 more)",
    ),
    "a short segment inside a long one": (
        PLAIN,
        (*TRAIN, "a.mp4,1,2,peel"),
        False,
        "row 4: 1.0 s with the label 'peel' are also in row 2 with 'cut'",
    ),
    "split Train": (
        SPLIT,
        ("a.mp4,0,3,cut,Train", "a.mp4,4,7,peel,Train"),
        False,
        "row 2: the split 'Train' (2 segments) is read only by a command that names it; write 'train'",
    ),
    "splits train and TRAIN": (
        SPLIT,
        ("a.mp4,0,3,cut,train", "a.mp4,4,7,cut,TRAIN"),
        True,
        "row 3: the split 'TRAIN' differs from 'train' (row 2) only in case or blanks; write one of them",
    ),
    "split train with a zero-width space": (
        SPLIT,
        ("a.mp4,0,3,cut,train", "a.mp4,4,7,cut,train\u200b"),
        True,
        r"row 3: the split 'train\u200b' looks like 'train' (row 2), but has other characters; write one of them",
    ),
    **{
        f"split {word}": (
            SPLIT,
            ("a.mp4,0,3,cut,train", f"b.mp4,4,7,cut,{word}"),
            False,
            f"row 3: the split '{word}' (1 segment) is read only by a command that names it; usual is '{usual}'",
        )
        for word, usual in (
            ("val", "validation"),
            ("valid", "validation"),
            ("dev", "validation"),
            ("trian", "train"),
            ("evaluation", "test"),
        )
    },
    "split of one's own": (
        SPLIT,
        ("a.mp4,0,3,cut,train", "b.mp4,4,7,cut,home"),
        False,
        "row 3: the split 'home' (1 segment) is read only by a command that names it; usual are 'train', 'test', 'val",
    ),
    "labels in two cases": (
        PLAIN,
        (*TRAIN, "b.mp4,0,3,Cut"),
        False,
        "row 4: the label 'Cut' differs from 'cut' (row 2) only in case or blanks; write one of them",
    ),
    **{
        f"labels {one!r} and {other!r}": (
            PLAIN,
            (f"a.mp4,0,3,{one}", f"b.mp4,0,3,{other}"),
            False,
            f"row 3: the label '{other}' differs from '{one}' (row 2) only in case or blanks",
        )
        for one, other in (("put down", "put  down"), ("put down", "put-down"), ("put down", "put_down"))
    },
    **{
        f"labels that look alike: {name}": (
            PLAIN,
            (f"a.mp4,0,3,{one}", f"b.mp4,0,3,{other}"),
            True,
            f"row 3: the label {other!a} looks like {one!a} (row 2), but has other characters; write one",
        )
        for name, one, other in (
            ("composition", "caf\u00e9", "cafe\u0301"),
            ("zero width", "cut", "c\u200but"),
            ("zero width first", "c\u200but", "cut"),
            ("byte-order mark", "cut", "cut\ufeff"),
            ("soft hyphen", "cut", "cu\u00adt"),
            ("variation selector", "cut", "cut\ufe0f"),
            ("Hangul filler", "cut", "cut\u3164"),
            ("grapheme joiner", "cut", "cu\u034ft"),
            ("Mongolian selector", "cut", "cut\u180b"),
            ("control character", "cut", "cut\x7f"),
            ("no-break space", "put down", "put\u00a0down"),
            ("Cyrillic", "cut", "\u0441ut"),
            ("Greek", "open", "\u03bfpen"),
        )
    },
    **{
        f"label {word}": (
            PLAIN,
            (*TRAIN, f"b.mp4,0,3,{word}"),
            False,
            f"row 4: the label '{word}' (1 segment) is a name like any other; leave the cell empty if there is none",
        )
        for word in ("nan", "NaN", "None", "NULL", "N/A", "<NA>")
    },
    "wearer nan": (
        f"{PLAIN},wearer",
        ("a.mp4,0,3,cut,P01", "b.mp4,0,3,cut,nan"),
        False,
        "row 3: the wearer 'nan' (1 segment) is a name like any other",
    ),
    "labels 0, 1 and 1.0": (
        PLAIN,
        ("a.mp4,0,3,0", "a.mp4,4,7,1", "b.mp4,4,7,1.0"),
        True,
        "row 4: the label '1.0' is the number '1' (row 3) in another spelling; write one of them",
    ),
    "labels 1 and 01": (
        PLAIN,
        ("a.mp4,0,3,1", "a.mp4,4,7,01"),
        True,
        "row 3: the label '01' is the number '1' (row 2)",
    ),
    "labels 1 and 1 as numpy writes it": (
        PLAIN,
        ("a.mp4,0,3,1", "a.mp4,4,7,1.000000000000000000e+00"),
        True,
        "row 3: the label '1.000000000000000000e+00' is the number '1' (row 2)",
    ),
    "labels 0 and -0": (
        PLAIN,
        ("a.mp4,0,3,0", "a.mp4,4,7,-0"),
        True,
        "row 3: the label '-0' is the number '0' (row 2)",
    ),
    "wearers 1 and 01": (
        f"{SPLIT},wearer",
        ("a.mp4,0,3,cut,train,1", "b.mp4,0,3,cut,test,01"),
        False,
        "row 3: the wearer '01' is the number '1' (row 2) in another spelling; write one of them",
    ),
    "numbers and words": (
        PLAIN,
        (*TRAIN, "b.mp4,4,7,3", "b.mp4,8,11,4"),
        False,
        "row 4: the label '3' is a number, but other labels are words (2 segments have numbers)",
    ),
    "a class only in test": (
        SPLIT,
        ("a.mp4,0,3,cut,train", "b.mp4,0,3,cut,test", "b.mp4,4,7,fly,test", "b.mp4,8,11,fry,test"),
        False,
        "row 4: 2 classes have no segment with the split train, so students cannot learn them: 'fly', 'fry'",
    ),
    "classes only in train": (
        SPLIT,
        ("a.mp4,0,3,cut,train", "a.mp4,4,7,fly,train", "a.mp4,8,11,fry,train", "b.mp4,0,3,cut,test"),
        False,
        "row 3: 2 classes have no segment with the split test, so nothing says how well students know them: 'fly', 'f",
    ),
    **{
        f"the label {slip} beside {word}": (
            PLAIN,
            (*rows_of(10, word), f"b.mp4,0,3,{slip}", f"b.mp4,4,7,{slip}"),
            False,
            f"row 12: the label '{slip}' (2 segments) is one or two letters from '{word}' (10 segments); correct it if",
        )
        for word, slip in (("pour", "puor"), ("open", "opne"), ("wash", "washh"), ("put down", "putt down."))
    },
    "a wearer in train and test": (
        f"{SPLIT},wearer",
        ("a.mp4,0,3,cut,train,P01", "b.mp4,0,3,cut,test,P01"),
        False,
        "row 3: the wearer 'P01' is in test here and in train in row 2, so accuracy is not that for new people; give",
    ),
    "a wearer in two cases": (
        f"{PLAIN},wearer",
        ("a.mp4,0,3,cut,P01", "b.mp4,0,3,cut,p01"),
        False,
        "row 3: the wearer 'p01' differs from 'P01' (row 2) only in case or blanks",
    ),
    "moments in train and test": (
        SPLIT,
        ("a.mp4,0,3,cut,train", "a.mp4,3.1,3.5,cut,test"),
        False,
        "row 3: its clips of 2.13 s share moments of the video with row 2 of another split (test and train); give both",
    ),
    "one IMU of two videos": (
        f"{PLAIN},imu",
        ("a.mp4,0,3,cut,c.csv", "b.mp4,0,3,cut,c.csv"),
        False,
        "row 3: the IMU c.csv is also that of a.mp4 (row 2); each video has its own, or its own imu_",
    ),
    "the IMU of another video": (
        f"{PLAIN},imu",
        ("a.mp4,0,3,cut,b.csv", "b.mp4,0,3,cut,"),
        False,
        "row 2: the IMU b.csv has the name of another video, b.mp4 (row 3); give that of a.mp4",
    ),
    "the IMU beside another video": (
        f"{PLAIN},imu",
        ("x/s.mp4,0,3,cut,y/imu.csv", "y/s.mp4,0,3,cut,"),
        False,
        "row 2: the IMU imu.csv lies beside another video, s.mp4 (row 3); give that of s.mp4",
    ),
    "two IMUs": (
        f"{PLAIN},imu",
        ("a.mp4,0,3,cut,a.csv", "a.mp4,4,7,cut,c.csv"),
        False,
        "row 3: its video has the IMU c.csv here and a.csv in row 2; a recording has one",
    ),
    "an IMU in one row of two": (
        f"{PLAIN},imu",
        ("a.mp4,0,3,cut,", "a.mp4,4,7,cut,x/imu.csv"),
        False,
        "row 3: its video has the IMU imu.csv here and none in row 2; a recording has one",
    ),
    "two wearers": (
        f"{PLAIN},wearer",
        ("a.mp4,0,3,cut,P01", "a.mp4,4,7,cut,P02"),
        False,
        "row 3: its video has the wearer 'P02' here and 'P01' in row 2; a recording has one",
    ),
    "two axes": (
        f"{PLAIN},imu,imu_axes",
        ("a.mp4,0,3,cut,a.csv,XZy", "a.mp4,4,7,cut,a.csv,"),
        True,
        "row 3: its IMU has the axes 'gopro' here and 'XZy' in row 2; a recording has one",
    ),
    "two clocks": (
        f"{PLAIN},imu,imu_offset",
        ("a.mp4,0,3,cut,a.csv,0.25", "a.mp4,4,7,cut,a.csv,"),
        False,
        "row 3: its IMU has the offset and stretch 0, 1 here and 0.25, 1 in row 2; a recording has one",
    ),
    "a stop half an hour behind the end": (
        PLAIN,
        (*TRAIN, "b.mp4,0,1860,cut"),
        False,
        "row 4: stops at 1860.0 s, but the video ends at 60.0 s; correct the row",
    ),
    "times in frames": (
        PLAIN,
        ("a.mp4,0,90,cut", "a.mp4,120,210,peel", "b.mp4,900,1080,cut"),
        True,
        "row 2: stops at 90.0 s, but the video ends at 60.0 s; are the times frame numbers? Divide them by the frame r",
    ),
    "times in milliseconds": (
        PLAIN,
        ("a.mp4,0,3500,cut", "a.mp4,4000,7000,peel", "b.mp4,50500,59000,cut"),
        True,
        "row 2: stops at 3500.0 s, but the video ends at 60.0 s; are the times milliseconds? Divide them by 1000",
    ),
    "times in microseconds": (
        PLAIN,
        ("a.mp4,0,300000,cut", "a.mp4,300000,600000,peel"),
        True,
        "row 2: stops at 300000.0 s, but the video ends at 60.0 s; are the times microseconds? Divide them by 1000000",
    ),
    "one column in milliseconds": (
        f"{PLAIN}",
        ("a.mp4,0,3500,cut", "b.mp4,4,7000.5,peel"),
        True,
        "row 2: stops at 3500.0 s, but the video ends at 60.0 s; is the column stop in milliseconds? Divide it by 1000",
    ),
    "times of another video": (
        PLAIN,
        ("a.mp4,80.5,83,cut", "a.mp4,90,91,peel"),
        True,
        "row 2: starts at 80.5 s, but the video ends at 60.0 s; correct the row",
    ),
    "times behind the end": (
        PLAIN,
        (*TRAIN, "b.mp4,80,84,cut"),
        True,
        "row 4: starts at 80.0 s, but the video ends at 60.0 s; correct the row",
    ),
    "times just behind the end": (
        PLAIN,
        (*TRAIN, "b.mp4,60,61,cut"),
        True,
        "row 4: starts at 60.0 s, but the video ends at 60.0 s; correct the row",
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_a_contradiction_is_one_line_with_its_row(name, tmp_path):
    header, rows, is_error, text = CASES[name]
    found, videos = read(tmp_path, header, *rows)
    said = lines(tmp_path, table_checks.find(found, videos))
    assert len(said) == 1 and said[0][1].startswith(text) and said[0][0] is is_error, said
    if "stop" not in name and "times" not in name and "milliseconds" not in name:
        assert lines(tmp_path, table_checks.find(found)) == said  # known from the table alone


# Tables that are as they should be, or in which what looks odd is usual.
SOUND = {
    "columns": (
        "video,start,stop,label,imu,split,wearer,imu_offset,imu_axes",
        "a.mp4,0,3,cut,a.csv,train,P01,0.2,XZy",
        "a.mp4,3,6,peel,a.csv,train,P01,0.2,XZy",
        "b.mp4,00:00:01.5,0:04,cut,b.csv;c.csv,test,P02,-0.1,",
        "b.mp4,4,60,peel,b.csv;c.csv,test,P02,-0.1,",
    ),
    "segments that touch": (PLAIN, *(f"a.mp4,{k},{k + 1},{'ab'[k % 2]}" for k in range(6))),
    "windows of which each has half of the one before": (
        PLAIN,
        *(f"a.mp4,{k},{k + 2},{'ab'[k // 3]}" for k in range(6)),
    ),
    "windows of one class": (PLAIN, *(f"a.mp4,{k / 10},{k / 10 + 2},a" for k in range(30))),
    "no labels": (PLAIN, "a.mp4,0,3,", "b.mp4,0,3,"),
    "some labels": (PLAIN, "a.mp4,0,3,cut", "a.mp4,1,4,", "b.mp4,0,3,"),
    "whole numbers as labels": (PLAIN, *(f"a.mp4,{4 * k},{4 * k + 3},{k}" for k in range(12))),
    "numbers in words": (PLAIN, "a.mp4,0,3,step 1", "a.mp4,4,7,step 2", "a.mp4,8,11,1st"),
    "numbers with signs": (PLAIN, "a.mp4,0,3,-1", "a.mp4,4,7,1"),
    "signs in words": (PLAIN, "a.mp4,0,3,turn -90", "a.mp4,4,7,turn 90"),
    "numbers that a float rounds": (PLAIN, "a.mp4,0,3,9007199254740993", "a.mp4,4,7,9007199254740992"),
    "rare words that are others": (
        PLAIN,
        *rows_of(10, "cut"),
        *(f"b.mp4,{5 * k},{5 * k + 3},{word}" for k, word in enumerate(("put", "step 1", "cute hat", "peel"))),
    ),
    "a number in ten and in one": (PLAIN, *rows_of(10, "step 1"), "b.mp4,0,3,step 2"),
    "words that are alike, both frequent": (PLAIN, *rows_of(9, "pour"), "b.mp4,0,3,pouf", "b.mp4,4,7,pouf"),
    "only test": (SPLIT, "a.mp4,0,3,cut,test", "b.mp4,0,3,peel,test"),
    "Russian and Greek": (
        PLAIN,
        "a.mp4,0,3,\u0440\u0435\u0437\u0430\u0442\u044c",
        "a.mp4,4,7,\u03ba\u03cc\u03b2\u03c9",
    ),
    "a long IMU of two videos": (f"{PLAIN},imu,imu_offset", "a.mp4,0,3,cut,c.csv,0", "b.mp4,0,3,cut,c.csv,-600"),
    "IMUs in a folder of their own": (f"{PLAIN},imu", "a.mp4,0,3,cut,x/imu.csv", "b.mp4,0,3,cut,y/imu.csv"),
    "a video without and with the IMU beside it": (f"{PLAIN},imu", "a.mp4,0,3,cut,", "a.mp4,4,7,cut,a.csv"),
    "a stop a little behind the end": (PLAIN, "a.mp4,50,62,cut"),
}


@pytest.mark.parametrize("name", SOUND)
def test_nothing_is_said_of_a_sound_table(name, tmp_path):
    found, videos = read(tmp_path, *SOUND[name])
    assert lines(tmp_path, table_checks.find(found, videos)) == []


def test_a_line_counts_what_it_does_not_name(tmp_path):
    rows = [f"a.mp4,{10 * k},{10 * k + 3},cut" for k in range(6)]
    ((_, said),) = lines(tmp_path, table_checks.find(read(tmp_path, PLAIN, *rows, *rows)[0]))
    assert said == "row 8: repeats row 2, so it counts twice; remove one (and 5 more)"
    rows = [f"a.mp4,{10 * k},{10 * k + 3},cut,s{k}" for k in range(8)]
    said = lines(tmp_path, table_checks.find(read(tmp_path, SPLIT, *rows)[0]))
    assert [text[:21] for _, text in said] == [f"row {2 + k}: the split 's{k}'" for k in range(5)]
    assert said[-1][1].endswith("(and 3 more)") and not said[0][1].endswith("more)")


def test_times_of_a_table_end_at_sixty(tmp_path):
    for time in ("00:00:75", "0:75", "00:61:00", "1:60"):
        with pytest.raises(DataError, match=rf"t.csv, row 3: '{time}' is not a time: minutes and seconds after a ':'"):
            read(tmp_path, PLAIN, "a.mp4,0,1,cut", f"a.mp4,0,{time},cut")
    found, _ = read(tmp_path, PLAIN, "a.mp4,75:00,01:15:59.9,cut", "a.mp4,0,75,cut")
    assert [(one.start, one.stop) for one in found] == [(4500, 4559.9), (0, 75)]


def test_errors_come_together_and_strict_makes_notes_errors(tmp_path):
    rows = ("a.mp4,0,3,cut", "a.mp4,0,3,peel", "b.mp4,0,3,1", "b.mp4,4,7,01", "b.mp4,8,11,nan")
    found = table_checks.find(read(tmp_path, PLAIN, *rows)[0])
    with pytest.raises(DataError) as error:
        table_checks.notes_of(found)
    first, second = str(error.value).splitlines()
    assert first.startswith(f"{tmp_path}/t.csv, row 3: is row 2 again") and "row 5: the label '01'" in second
    sound = table_checks.find(read(tmp_path, PLAIN, rows[0], rows[4])[0])
    (note,) = table_checks.notes_of(sound)
    assert note.startswith(f"{tmp_path}/t.csv, row 3: the label 'nan'")
    with pytest.raises(DataError) as error:
        table_checks.notes_of(sound, strict=True)
    assert str(error.value).splitlines() == [note, "with strict=True (--strict) notes are errors"]
    with pytest.raises(DataError, match=r"(?s)again.*row 4: the label '1' is a number.*notes are errors"):
        table_checks.notes_of(found, strict=True)


def test_segments_made_in_python_are_named_by_their_ids_and_get_notes(tmp_path):
    made = [data.Segment(name, "a.mp4", 0, 3, label) for name, label in (("x", "cut"), ("y", "peel"), ("y", "peel"))]
    assert [(one.text, one.is_error) for one in table_checks.find(made)] == [
        ("segment y: repeats segment y, so it counts twice; remove one", False),
        (
            "segment y: is segment x again with the label 'peel' instead of 'cut'; a segment has one label "
            "(and 1 more)",
            False,
        ),
        ("segment y: its id is that of an earlier segment, so results cannot name it; give it another one", False),
    ]


def test_what_is_changed_keeps_its_rows(tmp_path):
    found, _ = read(tmp_path, PLAIN, *TRAIN, TRAIN[0])
    write_table(tmp_path / "o.csv", ("video", "imu_offset"), [("a.mp4", 0.25)])
    for changed in (data.with_imu_offsets(found, tmp_path / "o.csv"), data.with_imu_axes(found, "XZy")):
        ((_, said),) = lines(tmp_path, table_checks.find(changed))
        assert said.startswith("row 4: repeats row 2")


def test_recordings_without_labels_are_seen_row_by_row(tmp_path, monkeypatch):
    monkeypatch.setattr(data.Recording, "probe", lambda self: VideoInfo(30.0, 30.0, 64, 48))
    for name in ("a.mp4", "b.mp4"):
        (tmp_path / name).touch()
    rows = [("a.mp4", "P01", "train"), ("b.mp4", "P01", "test"), ("a.mp4", "P02", "train")]
    table = write_table(tmp_path / "t.csv", ("video", "wearer", "split"), rows)
    said = [text for _, text in lines(tmp_path, table_checks.find(segments.read_recordings(table)))]
    assert [text.partition(", so")[0].partition("; ")[0] for text in said] == [
        "row 4: repeats row 2",
        "row 3: the wearer 'P01' is in test here and in train in row 2",
        "row 4: its video has the wearer 'P02' here and 'P01' in row 2",
    ]
    write_table(table, ("video", "wearer"), [row[:2] for row in rows[:2]])  # the splits are drawn
    assert table_checks.find(segments.read_recordings(table)) == []
    assert table_checks.find(segments.read_recordings(tmp_path, segments.Windows(stride=0.5))) == []


def test_a_video_is_one_under_all_its_names(tmp_path):
    read(tmp_path, PLAIN, *TRAIN)
    (tmp_path / "link.mp4").symlink_to("a.mp4")
    (tmp_path / "link.csv").symlink_to("a.csv")
    (tmp_path / "hard.mp4").hardlink_to(tmp_path / "a.mp4")
    for name, also in (("x/../a.mp4", ""), ("link.mp4", " (link.mp4 is the file a.mp4)"), ("hard.mp4", None)):
        also = " (hard.mp4 is the file a.mp4)" if also is None else also
        found, videos = read(tmp_path, SPLIT, "a.mp4,0,3,cut,train", "b.mp4,0,3,peel,train", f"{name},0,3,peel,test")
        (error, two), _, (_, moments) = lines(tmp_path, table_checks.find(found, videos))
        assert error and two.startswith(f"row 4{also}: is row 2 again with the label 'peel' instead of 'cut'")
        assert moments.startswith(f"row 4{also}: its clips of 2.13 s share moments of the video with row 2")
        assert found[2].video == found[0].video == str(tmp_path / "a.mp4")  # one name
    rows = ["a.mp4,0,3,cut,a.csv", "link.mp4,4,7,cut,link.csv", "link.mp4,8,11,cut,a.csv"]
    assert table_checks.find(read(tmp_path, f"{PLAIN},imu", *rows)[0]) == []
    assert table_checks.find(read(tmp_path, f"{PLAIN},imu", *rows[1:])[0]) == []


def test_a_copy_of_a_video_is_noted_with_the_splits(tmp_path):
    read(tmp_path, PLAIN, *TRAIN)
    content = random.Random(0).randbytes(5 << 19)  # 2.5 MB
    for name in ("a.mp4", "b.mp4", "x/s.mp4", "y/s.mp4"):
        (tmp_path / name).write_bytes(content)

    def said(*rows):
        return lines(tmp_path, table_checks.find(read(tmp_path, SPLIT, *rows)[0]))

    train = "a.mp4,0,3,cut,train", "a.mp4,4,7,peel,train"
    assert said(*train, "b.mp4,0,3,peel,train", "b.mp4,4,7,cut,train") == [
        (False, "row 4: b.mp4 is a copy of a.mp4 (row 2), so what is in both may count twice; use one of the files")
    ]
    splits = "with another split (test here, train there), so testing may be too easy; use one of the files"
    test = "b.mp4,4,7,peel,test", "b.mp4,0,3,cut,test"
    assert said(*train, *test) == [(False, f"row 4: b.mp4 is a copy of a.mp4 (row 2) {splits}")]
    assert said("x/s.mp4,0,3,cut,train", "y/s.mp4,0,3,cut,test") == [
        (False, f"row 3: {tmp_path}/y/s.mp4 is a copy of {tmp_path}/x/s.mp4 (row 2) {splits}")
    ]
    assert len(said(*train, "b.mp4,0,3,peel,train", "x/s.mp4,0,3,peel,train")) == 2
    found = table_checks.find(read(tmp_path, SPLIT, *train, *test)[0])
    with pytest.raises(DataError, match=r"row 4: b.mp4 is a copy of a.mp4 .*\nwith strict=True"):
        table_checks.notes_of(found, strict=True)


def test_files_that_are_no_copies_get_no_note(tmp_path, monkeypatch):
    read(tmp_path, PLAIN, *TRAIN)
    first, other = tmp_path / "a.mp4", tmp_path / "b.mp4"
    content = random.Random(0).randbytes(5 << 19)

    def said():
        return table_checks.find([data.Segment(path.name, path, 0, 3, "cut") for path in (first, other)])

    assert said() == []  # empty files
    first.write_bytes(content)
    for differs in (content[1:], b"?" + content[1:], content[:-1] + b"?"):
        other.write_bytes(differs)
        assert said() == []
    other.write_bytes(content)
    assert len(said()) == 1

    def refuse(path):
        raise PermissionError(path)

    with monkeypatch.context() as patch:
        patch.setattr(table_checks, "signature", refuse)
        assert said() == []
    other.unlink()
    assert said() == []
    other.hardlink_to(first)
    (link,) = said()
    assert link.text.startswith("segment b.mp4 (b.mp4 is the file a.mp4): repeats")


def test_a_copy_in_a_folder_of_recordings_is_noted(steady, tmp_path):
    for name in ("walk.mp4", "walk_copy.mp4"):
        shutil.copy(steady, tmp_path / name)
    found = segments.read_recordings(tmp_path, segments.Windows(test_share=0.5))
    (text,) = [one.text for one in table_checks.find(found) if " copy " in one.text]
    assert text.startswith(f"{tmp_path}, segment walk_copy_")
    assert ": walk_copy.mp4 is a copy of walk.mp4 (segment walk_0) with another split (t" in text


def test_the_imu_of_a_video_that_the_table_does_not_name(tmp_path):
    read(tmp_path, PLAIN, *TRAIN)
    assert table_checks.find(read(tmp_path, f"{PLAIN},imu", "a.mp4,0,3,cut,b.csv")[0]) == []  # a copy of b.mp4?
    (tmp_path / "a.csv").write_text("time,ax,ay,az,gx,gy,gz\n")
    for imu in ("b.csv", "b.csv;a.csv"):
        ((is_error, said),) = lines(
            tmp_path, table_checks.find(read(tmp_path, f"{PLAIN},imu", f"a.mp4,0,3,cut,{imu}")[0])
        )
        assert said == "row 2: the IMU b.csv has the name of another video, b.mp4; give that of a.mp4" and not is_error


def test_a_log_since_boot_of_two_videos_needs_their_offsets(steady, tmp_path):
    read(tmp_path, PLAIN, *TRAIN)
    for name in ("a.mp4", "b.mp4"):
        shutil.copy(steady, tmp_path / name)
    with open(tmp_path / "b.mp4", "ab") as file:
        file.write(b"\0\0\0\x08free")  # an empty box, so that it is no copy
    rows = [f"{600 + k / 100},0,{k % 2},9.8,0,0.1,0.2" for k in range(1300)]
    (tmp_path / "c.csv").write_text("\n".join(["time,ax,ay,az,gx,gy,gz", *rows]))

    def said(*offsets):
        rows = [f"{video},0,3,cut,c.csv,{offset}" for video, offset in zip(("a.mp4", "b.mp4"), offsets, strict=True)]
        return lines(tmp_path, table_checks.find(read(tmp_path, f"{PLAIN},imu,imu_offset", *rows)[0]))

    ((is_error, text),) = said(0, 0)
    assert is_error and text.startswith(
        "row 3: the IMU c.csv is also that of a.mp4 (row 2); its times are as on a clock"
    )
    assert text.endswith("nothing says where a video begins in it; give each row its imu_offset")
    assert said(-600, -606) == said(0, -6) == []
    assert [is_error for is_error, _ in said(-600, -600)] == [False]  # two cameras at one time


def test_rows_of_recordings_are_seen_as_they_are_written(tmp_path, monkeypatch):
    monkeypatch.setattr(data.Recording, "probe", lambda self: VideoInfo(30.0, 30.0, 64, 48))

    def said(*rows):
        for name in ("a.mp4", "b.mp4"):
            (tmp_path / name).touch()
        table = write_table(tmp_path / "t.csv", ("video", "start", "stop", "split"), [row.split(",") for row in rows])
        found = segments.read_recordings(table, data.Windows(stride=1.0))
        videos = {one.video: one.recording.probe() for one in found}
        return lines(tmp_path, table_checks.find(found, videos))

    assert said("a.mp4,0,9000,train", "b.mp4,0,9000,test") == [
        (
            True,
            "row 2: stops at 9000.0 s, but the video ends at 30.0 s; is the column stop in milliseconds? Divide it by "
            "1000 (and 1 more)",
        )
    ]
    assert said("a.mp4,0,1830,train", "b.mp4,,,test") == [
        (False, "row 2: stops at 1830.0 s, but the video ends at 30.0 s; correct the row")
    ]
    assert said("a.mp4,0,6,train", "a.mp4,3,9,train", "b.mp4,,,test", "a.mp4,3,9,train") == [
        (False, "row 5: repeats row 3, so it counts twice; remove one"),
        (False, "row 3: begins at 3.0 s, but row 2 ends at 6.0 s, so what they share counts twice; shorten one"),
    ]
    assert said("a.mp4,0,6,train", "a.mp4,5,9,train", "b.mp4,,,test", "a.mp4,20,31,train") == []


def test_clips_of_a_segment_are_where_the_store_puts_them():
    """What `overlapping_splits()` computes without each clip."""
    rng = random.Random(0)
    for _ in range(300):
        start = rng.choice((0.0, rng.uniform(0, 5)))
        stop = start + rng.choice((rng.uniform(0.01, 20), 64 / 30, 128 / 30))
        clips = clip_starts(start, stop, np.inf)
        first, last = clips[0], clips[-1] + 64 / 30
        for begin, end, expected in (
            (0.0, first - 1e-3, False),
            (0.0, first + 1e-3, True),
            (last - 1e-3, last + 99, True),
            (last + 1e-3, last + 99, False),
        ):
            if end - begin > 3:
                pair = [data.Segment("a", "a.mp4", start, stop), data.Segment("b", "a.mp4", begin, end, split="test")]
                assert bool(segments.overlapping_splits(pair)) is expected


# --- Public data sets


def epic(folder, *rows):
    header = "narration_id,participant_id,video_id,start_timestamp,stop_timestamp,verb,verb_class"
    (folder / "EPIC_100_train.csv").write_text("\n".join([header, *rows]) + "\n")
    for name in ("P01/P01_101", "P02/P01_101"):
        write_epic_imu((folder / name).parent / "meta_data", "P01_101", 2)
    return data.read_epic_kitchens(folder / "EPIC_100_train.csv", folder)


def test_narrations_twice_and_one_video_with_two_files(tmp_path):
    first = "P01_101_0,P01,P01_101,00:00:01,00:00:03,cut,1"
    assert table_checks.find(epic(tmp_path, first, "P01_101_1,P01,P01_101,00:00:02,00:00:04,take,2")) == []
    found = table_checks.find(
        epic(
            tmp_path,
            first,
            first,
            "P01_101_1,P01,P01_101,00:00:01,00:00:03,take,2",
            "P01_101_2,P02,P01_101,00:00:07,00:00:09,cut,1",
        )
    )
    assert [(one.text.removeprefix(f"{tmp_path}/EPIC_100_train.csv"), one.is_error) for one in found] == [
        (", segment P01_101_0: repeats segment P01_101_0, so it counts twice; remove one", False),
        (
            ", segment P01_101_1: is segment P01_101_0 again with the label 'take' instead of 'cut'; a segment has one "
            "label",
            False,
        ),
        (
            ", segment P01_101_0: its id is that of an earlier segment, so results cannot name it; give it another one",
            False,
        ),
        (
            f": the video P01_101 is annotated for two files, {tmp_path}/P01/videos/P01_101.MP4 and "
            f"{tmp_path}/P02/videos/P01_101.MP4; only one can be right",
            False,
        ),
    ]


def test_two_files_of_one_uid_of_ego4d(tmp_path):
    action = {
        "narration_annotation_uid": "n",
        "start_sec": 1.0,
        "end_sec": 5.0,
        "structured_verb": "cut",
        "critical_frames": {"pre_frame": 60, "post_frame": 120},
    }
    video = {"video_uid": "u", "annotated_intervals": [{"narrated_actions": [action]}]}
    (tmp_path / "fho_main.json").write_text(json.dumps({"videos": [video]}))
    for folder in ("v1", "v2"):
        for name in ("imu/u.csv", "full_scale/u.mp4"):
            path = tmp_path / folder / name
            path.parent.mkdir(parents=True)
            path.write_text("same")

    def notes():
        found = data.read_ego4d(tmp_path / "fho_main.json", tmp_path, min_instances=1)
        return table_checks.notes_of(table_checks.find(found))

    assert notes() == []
    (tmp_path / "v1/full_scale/u.mp4").write_text("another")
    (note,) = notes()
    assert note == (
        f"{tmp_path}/fho_main.json: {tmp_path}/v2/full_scale/u.mp4 is read, but {tmp_path}/v1/full_scale/u.mp4 has "
        f"another size; remove the wrong one"
    )
    (tmp_path / "v2/ego4d.json").write_text(json.dumps({"videos": [{"video_uid": "u"}, {"video_uid": "u"}]}))
    assert notes() == [note]
    about = {"videos": [{"video_uid": "u"}, {"video_uid": "u", "is_stereo": True}]}
    (tmp_path / "v2/ego4d.json").write_text(json.dumps(about))
    with pytest.raises(DataError, match=r"ego4d.json, videos\[1\]: u has an earlier entry that differs from this one"):
        notes()


def test_nothing_untrue_is_said_of_real_tables(sample, epic_imu):
    """EPIC-KITCHENS: of classes without training segments, and of nothing else."""
    with open(sample("epic-kitchens-100/EPIC_100_video_info.csv"), newline="") as file:
        info = {row["video_id"]: (float(row["duration"]), float(row["fps"])) for row in csv.DictReader(file)}
    for name, count in (("EPIC_100_uda_target_val.csv", 1), ("imu_train_subset_joined.csv", 0)):
        found = data.read_epic_kitchens(sample(f"epic-kitchens-100/{name}"), epic_imu)
        videos = {one.video: VideoInfo(*info[Path(one.video).stem], 1920, 1080) for one in found}
        said = table_checks.notes_of(table_checks.find(found, videos))
        assert len(said) == count
        if said:
            trained = {one.label for one in found if one.split == "train"}
            missing = {one.label for one in found} - trained
            assert f" {len(missing)} classes have no segment with the split train" in said[0]


def test_nothing_is_said_of_worlds(tmp_path, monkeypatch):
    """Of worlds in their usual size, with the lengths of their videos, none of which is rendered."""
    lengths = {}

    def write(plan, out, workers, progress):
        for recording in plan:
            wearer = out / recording.name.split("_")[0]
            lengths[recording.name] = recording.draw().duration
            (wearer / "meta_data").mkdir(parents=True, exist_ok=True)
            for sensor in ("accl", "gyro"):
                (wearer / "meta_data" / f"{recording.name}-{sensor}.csv").touch()

    monkeypatch.setattr(synthetic, "write_recordings", write)
    for seed in (0, 1):
        world = synthetic.render(tmp_path / str(seed), seed=seed, untrimmed=2)
        for table in (world.annotations, world.untrimmed):
            found = data.read_epic_kitchens(table, world.root)
            videos = {one.video: VideoInfo(lengths[Path(one.video).stem], 30.0, 96, 96) for one in found}
            assert len(found) > 20 and table_checks.find(found, videos) == []


def test_nothing_is_said_of_the_sample_recordings(sample_data):
    """As windows of recordings without labels; a table of the walk's own is in the tests of the commands."""
    for rule in ("stretch", "recording"):
        found = data.read_recordings(sample_data, data.Windows(split_by=rule))
        assert table_checks.find(found, probe_videos(found, 2)) == []
        named = data.name_imu_files(found)
        assert table_checks.find(named, origin=found.origin) == []


def test_logs_without_a_video_contradict_each_other_as_recordings_do(tmp_path):
    for k, name in enumerate(("one", "two", "three")):
        write_log(tmp_path / f"{name}.csv", seconds=8.0, rate=50.0, seed=k)
    shutil.copy(tmp_path / "one.csv", tmp_path / "copy.csv")
    columns = "video imu start stop label split wearer".split()

    def texts(*rows):
        found = data.read_csv(write_table(tmp_path / "t.csv", columns, rows))
        return [one.text.partition(": ")[2] for one in table_checks.find(found, probe_videos(found, 2))]

    rows = [("", f"{name}.csv", 0, 7, "a", split, name) for name in ("one", "two", "three") for split in ["train"]]
    others = [(*row[:2], 0, 7, "a", "test", row[-1]) for row in rows]
    assert texts(rows[0], rows[1], (*others[2],)) == []
    (copied,) = texts(rows[0], ("", "copy.csv", 0, 7, "a", "test", "four"))
    assert copied.startswith("copy.csv is a copy of one.csv (row 2) with another split")
    assert any("share moments of the video" in text for text in texts(rows[0], others[0]))
    assert "its IMU has the wearer 'two' here and 'one' in row 2; a recording has one" in texts(
        rows[0], (*rows[0][:2], 7, 7.5, "a", "train", "two")
    )
    assert texts(rows[0], ("", "two.csv", 9, 12, "a", "train", "two")) == [
        "starts at 9.0 s, but the samples end at 8.0 s; correct the row"
    ]
