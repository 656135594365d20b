"""Segments of your own tables and of recordings without labels: what is read, and what errors say."""

import math
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from heads import write_log
from painted import CLIP, write_table, write_video

from egodistill import DataError, data
from egodistill.datasets import annotations, segments, table_checks
from egodistill.datasets.segments import with_calibration
from egodistill.recordings.recording import Recording
from egodistill.video import VideoInfo, probe


def test_read_csv(tmp_path):
    for name in ("a.mp4", "a.csv", "g.csv"):
        (tmp_path / name).touch()
    header = ("video", "start", "stop", "label", "imu", "split", "id")
    rows = [
        ("a.mp4", "1.5", "3", "cut", "a.csv;g.csv", "test", "x"),
        ("a.mp4", "0:01:01", "62.5", "", "", "", ""),
        ("a.mp4", 0, 1, "cut", "a.csv", "", ""),
    ]
    found = segments.read_csv(write_table(tmp_path / "t.csv", header, rows))
    pair = (str(tmp_path / "a.csv"), str(tmp_path / "g.csv"))
    assert found[0] == segments.Segment("x", str(tmp_path / "a.mp4"), 1.5, 3.0, "cut", pair, "test")
    assert (found[1].start, found[1].label, found[1].imu) == (61.0, None, None)
    assert found[1].split == "train" and found[2].imu == pair[0]
    assert len({s.id for s in found}) == 3
    paths = replace(found[0], video=tmp_path / "a.mp4", imu=[tmp_path / "a.csv", pair[1]])
    assert paths == found[0]  # paths are as good as strings
    short = write_table(tmp_path / "s.csv", header[:4], [("a.mp4", 0, 1, "cut")])
    assert segments.read_csv(short)[0].imu is None


def test_segments_that_show_what_another_split_shows():
    def part(name, start, stop, split="train", video="a.mp4"):
        return segments.Segment(name, video, start, stop, split=split)

    parts = [
        part("long", 0, 10),
        part("within", 2, 3),  # of the same split
        part("end", 9.9, 13, "test"),
        part("later", 10, 12.5, "validation"),  # begins where "long" ends, but "end" goes on
        part("apart", 13, 16),
        part("other", 0, 5, "test", "b.mp4"),
    ]
    found = segments.overlapping_splits(parts[::-1])
    assert [(one.id, other.id) for one, other in found] == [("end", "long"), ("later", "end")]


def test_a_segment_shorter_than_a_clip_shows_what_its_clip_shows():
    def overlaps(*times):
        parts = [
            segments.Segment(str(k), "a.mp4", start, stop, split="train" if k % 2 else "test")
            for k, (start, stop) in enumerate(times)
        ]
        return [(one.id, other.id) for one, other in segments.overlapping_splits(parts)]

    assert overlaps(*((k, k + 1) for k in range(4))) == [("1", "0"), ("2", "1"), ("3", "2")]
    first = 10 - 0.5 - CLIP / 2  # start of the clip of a segment from 9 to 10 s
    assert overlaps((5, first - 0.01), (9, 10)) == [] and overlaps((5, first + 0.01), (9, 10)) == [("1", "0")]
    assert overlaps((9, 10), (8.9, 20)) == [("1", "0")]  # the later one starts later with its clip, too
    assert overlaps((0, 0.5), (CLIP - 0.1, 9)) == [("1", "0")]  # the clip is moved to the start of the video
    assert overlaps(*((k * CLIP, k * CLIP + CLIP) for k in range(50))) == []  # windows that only touch


@pytest.mark.parametrize(
    ("row", "words"),
    [
        (("b.mp4", 0, 1, "x", ""), "row 2: no such file: .*b.mp4"),
        (("a.mp4", 1, 1, "x", ""), "row 2: stop 1 is not after start 1"),
        (("a.mp4", -1, 1, "x", ""), "row 2: '-1' is not a time"),
        (("a.mp4", 0, "inf", "x", ""), "row 2: 'inf' is not a time"),
        (("a.mp4", 0, 1, "x", "no.csv"), "row 2: no such file: .*no.csv"),
        (("a.mp4", 0, 1, "x", "a.mp4;a.mp4;a.mp4"), "row 2: imu must be one file"),
        (("a.mp4", 0, 1, "x", "a.mp4;./a.mp4"), "row 2: imu names one file twice, 'a.mp4;./a.mp4'; give it once"),
    ],
)
def test_read_csv_names_file_and_row(tmp_path, row, words):
    (tmp_path / "a.mp4").touch()
    table = write_table(tmp_path / "t.csv", ("video", "start", "stop", "label", "imu"), [row])
    with pytest.raises(DataError, match=f"t.csv, {words}"):
        segments.read_csv(table)
    with pytest.raises(DataError, match="no column label; its header is video,start,stop"):
        segments.read_csv(write_table(table, ("video", "start", "stop"), []))
    with pytest.raises(DataError, match=r"gone.csv: cannot be read"):
        segments.read_csv(tmp_path / "gone.csv")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("video,start,end,label\na.mp4,0,1,x\n", r"t.csv: no column stop \(is it 'end'\? Rename it\)"),
        ("video,start,stop,lable\na.mp4,0,1,x\n", r"t.csv: no column label \(similar: 'lable'\); its header is video,"),
        ("video,start,stop,label,spilt\n", r"t.csv: unknown column 'spilt' \(similar: 'split'\); known are video,"),
        ("video,start,stop,label,verb\n", "t.csv: unknown column 'verb'; known are video,"),
        ("video;start;stop;label\na.mp4;0;1;x\n", "t.csv: its cells are separated by ';', must be ','"),
        ("video\tstart\tstop\tlabel\n", r"t.csv: its cells are separated by '\\t', must be ','"),
        ("video,start,stop,label,Label\n", "t.csv: the column label appears 2 times"),
        ("video,start,stop,label\na.mp4,0,1,x\na.mp4,0,1,x,y\n", "t.csv, row 3: 5 cells, but the header has 4"),
        ('video,start,stop,label\na.mp4,0,1,x\na.mp4,0,1,"x\na.mp4,0,1,y\n', "t.csv, row 3: .* label goes on .*quote"),
        (
            'video,start,stop,label\n"a.mp4,0,1,x\na.mp4,0,1,y\n',
            "t.csv, row 2: .* video goes on .*quote",
        ),
        ('video,start,stop,label\na.mp4,0,1,"' + 200_000 * "x", "t.csv, row 2: not a CSV table: .*a quote not closed"),
    ],
)
def test_a_faulty_table_is_an_error(tmp_path, text, words):
    (tmp_path / "a.mp4").touch()
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(DataError, match=words):
        segments.read_csv(tmp_path / "t.csv")


def test_names_of_a_segment_are_text():
    for fields, words in (
        ({"id": 7}, "id=7 of a segment must be text, such as id='7'"),
        ({"id": "a", "label": 1}, "label=1 of a segment must be text"),
        ({"id": "a", "split": None}, "split=None of a segment must be text"),
        ({"id": "a", "wearer": 3}, "wearer=3 of a segment must be text"),
        ({"id": "a", "label": ""}, "label='' .* give label=None"),
        (
            {"id": "a", "label": "unsure"},
            "the label 'unsure' means that a student refuses a clip; name the class other",
        ),
    ):
        with pytest.raises(DataError, match=words):
            segments.Segment(video="walk.mp4", start=0, stop=3, **fields)


def test_names_of_columns_in_any_case_and_columns_of_comments(tmp_path):
    (tmp_path / "a.mp4").touch()
    (tmp_path / "t.csv").write_text(
        ",Video, START ,stop,Label,#note,_by,\n0,a.mp4,0,1,cut,x,y,\n\n1,a.mp4,1,2,cut,,,\n"
    )
    assert [(s.start, s.label) for s in segments.read_csv(tmp_path / "t.csv")] == [(0, "cut"), (1, "cut")]


def test_a_folder_of_a_neon_is_its_scene_video(tmp_path):
    (tmp_path / "neon").mkdir()
    for name in ("imu.csv", "world_timestamps.csv", "scene.mp4"):
        (tmp_path / "neon" / name).touch()
    labelled = write_table(tmp_path / "t.csv", ("video", "start", "stop", "label"), [("neon", 0, 1, "cut")])
    listed = write_table(tmp_path / "l.csv", ("video",), [("neon",)])
    scene = str(tmp_path / "neon" / "scene.mp4")
    assert [one.video for one in segments.read_csv(labelled)] == [scene]
    assert [one.video for one in segments.listed_recordings(listed)] == [scene]
    (tmp_path / "neon" / "other.mp4").touch()
    with pytest.raises(
        DataError, match=r"t\.csv, row 2: .*neon: .*one scene video in its folder, here: other\.mp4, scene"
    ):
        segments.read_csv(labelled)
    (tmp_path / "neon" / "imu.csv").unlink()
    for table in (labelled, listed):
        with pytest.raises(
            DataError, match=r"\.csv, row 2: .*neon: a folder, but not of a Pupil Labs Neon; name a video"
        ):
            list(segments.read_csv(table) if table is labelled else segments.listed_recordings(table))


def test_csv_columns_for_clock_and_classes(tmp_path):
    (tmp_path / "a.mp4").touch()
    header = ("video", "start", "stop", "label", "imu_offset", "imu_stretch")
    table = write_table(
        tmp_path / "t.csv", header, [("a.mp4", 0, 1, "cut", "-0.25", "1.01"), ("a.mp4", 0, 1, "cut", "", "")]
    )
    first, second = segments.read_csv(table, class_names=["cut"])
    assert (first.imu_offset, first.imu_stretch) == (-0.25, 1.01)
    assert (second.imu_offset, second.imu_stretch) == (0.0, 1.0)
    with pytest.raises(DataError, match=r"t.csv, row 2: the label 'cut' is not one of the 1 class names"):
        segments.read_csv(table, class_names=["put"])
    for cells, words in ((("x", "1"), "imu_offset 'x'"), (("0", "3"), "imu_stretch 3.0")):
        write_table(table, header, [("a.mp4", 0, 1, "cut", *cells)])
        with pytest.raises(DataError, match=f"row 2: {words}"):
            segments.read_csv(table)


def test_imu_offsets_from_a_table(tmp_path):
    given = [
        segments.Segment("1", "/x/a.mp4", 0, 1, imu_offset=0.5),
        segments.Segment("2", "/x/b.mp4", 0, 1),
        segments.Segment("3", "/y/b.mp4", 0, 1),
    ]
    table = write_table(
        tmp_path / "o.csv", ("video", "imu_offset", "imu_stretch"), [("a", "0.25", "1.1"), ("/y/b.mp4", "-1", "")]
    )
    moved = segments.with_imu_offsets(segments.SegmentList(given, {"why": 1}), table)
    assert [s.imu_offset for s in moved] == pytest.approx([0.5 * 1.1 + 0.25, 0, -1])
    assert [s.imu_stretch for s in moved] == [1.1, 1, 1] and moved.dropped == {"why": 1}
    for name in ("b.mp4", "c"):
        write_table(table, ("video", "imu_offset"), [(name, 0)])
        with pytest.raises(DataError, match=f"row 2: '{name}' matches"):
            segments.with_imu_offsets(given, table)
    write_table(table, ("video", "imu_offset"), [("a", 0), ("/y/b.mp4", 1), ("/x/a.mp4", 0)])
    with pytest.raises(DataError, match=r"o.csv, row 4: '/x/a.mp4' is already in row 2; leave out one of them"):
        segments.with_imu_offsets(given, table)


def test_a_table_of_clocks_can_have_axes_which_replace_those_of_the_segment(tmp_path):
    given = [segments.Segment(name, f"/x/{name}.mp4", 0, 1, imu_axes="glasses") for name in "abc"]
    segments.write_imu_offsets(tmp_path / "o.csv", {"/x/a.mp4": 0.25, "/x/b.mp4": 0.5}, {"/x/b.mp4": "XZy"})
    moved = segments.with_imu_offsets(given, tmp_path / "o.csv")
    assert [(s.imu_offset, s.imu_axes) for s in moved] == [(0.25, "glasses"), (0.5, "XZy"), (0, "glasses")]
    (tmp_path / "o.csv").write_text("video,imu_offset,imu_axes\na,0,xZy\n")
    with pytest.raises(DataError, match=r"o.csv, row 2: imu_axes: the rotation of axes 'xZy' mirrors"):
        segments.with_imu_offsets(given, tmp_path / "o.csv")


def test_what_check_measured_of_other_recordings_is_left_out(tmp_path):
    """A row written or changed by hand must be about the segments; a table that has none of them says so."""
    given = [segments.Segment("1", "/x/a.mp4", 0, 1)]
    table = tmp_path / "o.csv"
    segments.write_imu_offsets(table, {"/x/a.mp4": 0.25, "/x/gone.mp4": 0.5})
    moved = segments.with_imu_offsets(given, table)
    assert [s.imu_offset for s in moved] == [0.25] and not moved.origin.notes
    table.write_text(table.read_text().replace("/x/a.mp4", "/x/c.mp4"))
    moved = segments.with_imu_offsets(given, table)
    assert [s.imu_offset for s in moved] == [0] and "no clock is corrected" in moved.origin.notes[0]
    table.write_text(table.read_text().replace("0.500,0.500", "0.400,0.500"))
    with pytest.raises(DataError, match=r"o.csv, row 3: '/x/gone.mp4' matches 0 videos .*take the row out"):
        segments.with_imu_offsets(given, table)


@pytest.mark.parametrize("measured", ["neon", "neon/scene.mp4"])
@pytest.mark.parametrize("named", ["neon", "neon/scene.mp4", "scene"])
def test_a_neon_is_named_by_its_folder_or_its_video(tmp_path, monkeypatch, measured, named):
    monkeypatch.chdir(tmp_path)
    Path("neon").mkdir()
    for name in ("scene.mp4", "imu.csv", "world_timestamps.csv"):
        Path("neon", name).touch()
    given = [segments.Segment("1", str(tmp_path / "neon" / "scene.mp4"), 0, 1), segments.Segment("2", "a.mp4", 0, 1)]
    segments.write_imu_offsets("o.csv", {measured: 0.25, "a.mp4": 0.5})
    assert [one.imu_offset for one in segments.with_imu_offsets(given, "o.csv")] == [0.25, 0.5]
    segments.write_imu_offsets("o.csv", {"neon/scene.mp4": 0.3})  # in place of the other name's
    assert [one.imu_offset for one in segments.with_imu_offsets(given, "o.csv")] == [0.3, 0.5]
    write_table(Path("o.csv"), ("video", "imu_offset"), [(named, 0.75)])
    assert [one.imu_offset for one in segments.with_imu_offsets(given, "o.csv")] == [0.75, 0]


def axes_in(table):
    return {row["video"]: row.get("imu_axes") for row in segments.offset_rows(Path(table))}


def test_axes_that_are_right_now_lose_the_turn_of_before(tmp_path):
    """And those of another recording, whose clock was written by hand, get the turn of their camera."""
    table = tmp_path / "o.csv"
    segments.write_imu_offsets(table, {"a.mp4": 0.25, "b.mp4": 0.5}, {"a.mp4": "xyZ", "b.mp4": "xyZ"})
    assert axes_in(table) == {"a.mp4": "xyZ", "b.mp4": "xyZ"}
    table.write_text(table.read_text().replace("b.mp4,0.500", "b.mp4,0.7"))
    assert segments.write_imu_offsets(table, {"a.mp4": 0.25, "b.mp4": 0.5}, {"b.mp4": "YxZ"}) == [
        "b.mp4: keeps 0.7, written by hand, instead of 0.500"
    ]
    assert axes_in(table) == {"a.mp4": "", "b.mp4": "YxZ"}
    parts = [segments.Segment(name, f"{name}.mp4", 0, 2) for name in "ab"]
    found = segments.with_imu_offsets(parts, table)
    assert [(one.imu_offset, one.imu_axes) for one in found] == [(0.25, "gopro"), (0.7, "YxZ")]


def test_axes_written_by_hand_stay_and_are_told(tmp_path):
    table = tmp_path / "o.csv"
    table.write_text("video,imu_offset,imu_axes\nown.mp4,0.1,YxZ\n")
    segments.write_imu_offsets(table, {"a.mp4": 0.25}, {"a.mp4": "xyZ"})
    table.write_text(table.read_text().replace("a.mp4,0.250,xyZ", "a.mp4,0.250,XZy"))
    kept = segments.write_imu_offsets(table, {"a.mp4": 0.3, "own.mp4": None}, {"a.mp4": "xyZ"})
    assert kept == [
        "own.mp4: keeps the axes YxZ, written by hand, instead of none",
        "a.mp4: keeps the axes XZy, written by hand, instead of xyZ",
    ]
    assert axes_in(table) == {"own.mp4": "YxZ", "a.mp4": "XZy"}
    assert [row["imu_offset"] for row in segments.offset_rows(table)] == ["0.1", "0.300"]
    segments.write_imu_offsets(table, {"a.mp4": 0.3}, {"a.mp4": "xyZ"}, overwrite=True)
    assert axes_in(table) == {"a.mp4": "xyZ"}


def test_a_recording_without_a_reliable_clock_loses_what_was_measured_before(tmp_path):
    table = tmp_path / "o.csv"
    segments.write_imu_offsets(table, {"a.mp4": 0.25, "b.mp4": 0.5, "c.mp4": 0.75})
    table.write_text(table.read_text().replace("c.mp4,0.750", "c.mp4,0.7"))
    assert segments.write_imu_offsets(table, dict.fromkeys(("a.mp4", "c.mp4", "d.mp4"))) == []
    assert table.read_text().split()[1:] == ["b.mp4,0.500,0.500", "c.mp4,0.7,0.750"]


def test_every_second_segment_of_each_split():
    given = [segments.Segment(str(k), "a.mp4", k, k + 1, split="test" if k in (1, 4) else "train") for k in range(7)]
    found = segments.subsample(segments.SegmentList(given, {"why": 1}), 2)
    assert [segment.id for segment in found] == ["0", "1", "3", "6"] and found.dropped == {"why": 1}


def test_an_exact_path_is_better_than_a_file_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    given = [segments.Segment(str(k), video, 0, 1) for k, video in enumerate(("walk.mp4", "sub/walk.mp4"))]
    table = write_table(tmp_path / "o.csv", ("video", "imu_offset"), [("walk.mp4", 0.1), ("sub/walk.mp4", 0.2)])
    assert [s.imu_offset for s in segments.with_imu_offsets(given, table)] == [0.1, 0.2]


def test_a_segment_and_its_recording_have_the_same_fields():
    values = {"video": "a.mp4", "imu": ("a.csv", "g.csv"), "imu_offset": 0.5, "imu_stretch": 1.01, "wearer": "P01"}
    segment = segments.Segment("1", start=1.0, stop=2.0, **values)
    assert {name: getattr(segment.recording, name) for name in values} == values


def test_a_correction_is_applied_on_top_of_the_segments_own_clock(tmp_path):
    """A reading stamped t is at 0.5 + 1.02 t by the segment, and at 0.25 + 1.1 of that by the table."""
    segment = segments.Segment("1", "a.mp4", 0, 1, imu_offset=0.5, imu_stretch=1.02)
    table = write_table(tmp_path / "o.csv", ("video", "imu_offset", "imu_stretch"), [("a", "0.25", "1.1")])
    (moved,) = segments.with_imu_offsets([segment], table)
    for t in (0.0, 3.0):
        assert moved.imu_offset + moved.imu_stretch * t == pytest.approx(0.25 + 1.1 * (0.5 + 1.02 * t))


def test_each_column_of_a_table_becomes_its_field(tmp_path):
    for name in ("a.mp4", "a.csv", "g.csv"):
        (tmp_path / name).touch()
    header = (
        "wearer",
        "imu_stretch",
        "id",
        "stop",
        "label",
        "imu",
        "split",
        "video",
        "imu_offset",
        "start",
        "imu_axes",
    )
    row = ("P07", "1.02", "x1", "4.5", "cut", "a.csv;g.csv", "val", "a.mp4", "-0.25", "1.5", "XZy")
    (found,) = segments.read_csv(write_table(tmp_path / "t.csv", header, [row]))
    pair = (str(tmp_path / "a.csv"), str(tmp_path / "g.csv"))
    video = str(tmp_path / "a.mp4")
    assert found == segments.Segment("x1", video, 1.5, 4.5, "cut", pair, "val", -0.25, 1.02, "P07", "XZy")
    assert set(segments.OPTIONAL_COLUMNS) | {"video", "start", "stop", "label"} == set(header)


def test_files_of_a_recording_are_looked_up_once(tmp_path, monkeypatch):
    """And its segments stay the same ones, but where an IMU is found beside the video."""
    looked_up, is_file = [], os.path.isfile
    monkeypatch.setattr(os.path, "isfile", lambda path: looked_up.append(path) or is_file(path))
    videos = [tmp_path / "a.mp4", tmp_path / "b.mp4"]
    for path in videos:
        path.touch()
    rows = [(videos[k % 2].name, k, k + 1, "cut") for k in range(6)]
    own = segments.read_csv(write_table(tmp_path / "t.csv", ("video", "start", "stop", "label"), rows))
    assert looked_up == videos and [one.video for one in own] == [*map(str, videos)] * 3
    (tmp_path / "b.csv").write_text("canonical_timestamp_ms,gyro_x,gyro_y,gyro_z,accl_x,accl_y,accl_z\n")
    named = data.name_imu_files(own)
    assert all(one is before for one, before in zip(named[::2], own[::2], strict=True))
    assert named[1::2] == [replace(one, imu=str(tmp_path / "b.csv")) for one in own[1::2]]


# --- Recordings without labels


SPLITS = ("train", "test")


def films(folder, **seconds):
    """Videos of so many seconds by their names, two of which are in folders of their own."""
    for name, length in seconds.items():
        path = folder / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        write_video(path.with_suffix(".mp4"), np.arange(length * 5) / 5, preset="ultrafast")
    return folder


def test_a_folder_of_recordings_becomes_windows(tmp_path):
    folder = films(tmp_path / "films", a=12, sub__b=7, c=9, sub__d=8)
    (folder / "notes.txt").write_text("no video")
    (folder / "._a.mp4").write_bytes(b"of macOS")
    (folder / "broken.mp4").write_bytes(b"broken")
    windows = segments.Windows(stride=1.0)
    found = segments.read_recordings(folder, windows)
    assert list(found.dropped.values()) == [1] and "broken.mp4" in next(iter(found.dropped))
    by_video = {}
    for segment in found:
        assert segment.label is None and segment.stop - segment.start == pytest.approx(CLIP)
        by_video.setdefault(Path(segment.video).relative_to(folder).as_posix(), []).append(segment)
    assert list(by_video) == ["a.mp4", "c.mp4", "sub/b.mp4", "sub/d.mp4"]
    starts = [segment.start for segment in by_video["a.mp4"]]
    last = probe(folder / "a.mp4").duration - CLIP
    assert starts == pytest.approx([*range(10), last]) and len({s.id for s in found}) == len(found)
    splits = {name: {segment.split for segment in own} for name, own in by_video.items()}
    assert sorted(map(list, splits.values())) == [["test"], ["train"], ["train"], ["train"]]  # 0.3 of 4 is 1.2
    # The same wherever the folder is, another with another seed, and as read_annotations() says.
    for place in "wxyz":
        folder = moved = folder.rename(tmp_path / place)
        again = segments.read_recordings(moved, windows)
        assert [s.split for s in again] == [s.split for s in found]
    seeds = {tuple(s.split for s in segments.read_recordings(moved, replace(windows, seed=k))) for k in range(6)}
    assert len(seeds) > 1
    assert annotations.read_annotations(moved, windows=windows) == again
    other = annotations.read_annotations(moved, seed=3, windows=windows)
    assert other == segments.read_recordings(moved, replace(windows, seed=3))
    assert annotations.read_annotations(moved, windows=replace(windows, seed=3)) == other
    halves = segments.read_recordings(moved, segments.Windows(test_share=0.5))
    assert len({s.video for s in halves if s.split == "test"}) == 2


@pytest.mark.parametrize(
    ("lengths", "share", "said"),
    [
        ((4.8, 10.5), 0.3, "5 of 8 clips (62 %) are for testing, not 30 %"),  # a.mp4 is for testing
        ((10.5, 10.5), 0.3, None),
        ((10.5, 10.5), 0.1, "5 of 10 clips (50 %) are for testing, not 10 %"),
        ((100, 100, 4.8), 0.33, "3 of 97 clips (3 %) are for testing, not 33 %"),
        ((100, 60, 100), 0.33, None),
    ],
)
def test_a_split_far_from_the_share_for_testing_is_said(lengths, share, said, tmp_path, monkeypatch):
    """Whole recordings of different lengths can only be split roughly; a column split and stretches are as wanted."""
    names = dict(zip(("b.mp4", "a.mp4", "c.mp4"), lengths, strict=False))
    monkeypatch.setattr(Recording, "probe", lambda self: VideoInfo(names[Path(self.video).name], 30.0, 64, 48))
    for name in names:
        (tmp_path / name).touch()
    found = segments.read_recordings(tmp_path, segments.Windows(test_share=share))
    assert len(found.origin.notes) == bool(said), found.origin.notes
    if said:
        assert said in found.origin.notes[0] and "--split-by stretch" in found.origin.notes[0]
    stretches = segments.read_recordings(tmp_path, segments.Windows(split_by="stretch")) if lengths[0] > 5 else found
    table = write_table(tmp_path / "t.csv", ("video", "split"), [(name, "train") for name in names])
    assert not segments.read_recordings(table).origin.notes
    assert stretches is found or not stretches.origin.notes


@pytest.mark.parametrize(("length", "share"), [(7, 0.3), (60, 0.3), (100, 0.1), (200, 0.5), (400, 0.9)])
def test_stretches_share_no_moment_and_keep_their_distance(length, share, tmp_path, monkeypatch):
    info = VideoInfo(float(length), 30.0, 64, 48)
    monkeypatch.setattr(Recording, "probe", lambda self: info)
    (tmp_path / "a.mp4").touch()
    windows = segments.Windows(stride=0.5, split_by="stretch", test_share=share)
    found = segments.read_recordings(tmp_path, windows)
    ends = {split: [(s.start, s.stop) for s in found if s.split == split] for split in ("train", "test")}
    apart = [max(c - b, a - d) for a, b in ends["train"] for c, d in ends["test"]]
    assert min(apart) >= 2.2 - 1e-9 and min(start for start, _ in ends["train"]) == 0
    assert max(stop for _, stop in ends["test"]) == pytest.approx(length)
    assert len({round(start, 6) for start, _ in ends["train"]}) == len(ends["train"])
    periods = max(1, round(length / 120))
    tests = np.array(ends["test"])[:, 0]
    assert 1 + np.count_nonzero(np.diff(tests) > 2.2) == periods
    if share == 0.3:
        assert length - tests.min() == pytest.approx(max(0.3 * length, CLIP), abs=0.6)


@pytest.mark.parametrize("rows", [[(0, 12), (12, 23.4)], [(12, 23.4), (0, 12)], [(0, 12), (12.5, 14), (14, 23.4)]])
def test_stretches_of_rows_that_touch_keep_their_distance(rows, tmp_path, monkeypatch):
    monkeypatch.setattr(Recording, "probe", lambda self: VideoInfo(23.4, 30.0, 64, 48))
    for name in ("a.mp4", "b.mp4"):
        (tmp_path / name).touch()
    cells = [("a.mp4", *times) for times in rows] + [("b.mp4", 12, 23.4)]
    table = write_table(tmp_path / "t.csv", ("video", "start", "stop"), cells)
    found = segments.read_recordings(table, segments.Windows(stride=0.5, split_by="stretch"))
    ends = {split: [(s.start, s.stop) for s in found if (s.split, s.video[-5]) == (split, "a")] for split in SPLITS}
    apart = [max(c - b, a - d) for a, b in ends["train"] for c, d in ends["test"]]
    assert min(apart) == pytest.approx(2.2)
    assert min(s.start for s in found if s.video.endswith("a.mp4")) == 0  # nothing is before the first row
    assert min(s.start for s in found if s.video.endswith("b.mp4")) == 12  # the rows of "a" are no neighbours of it
    assert {round(max(end), 1) for end in zip(*ends["test"], strict=True)} == {21.3, 23.4}
    lost = "a.mp4 from 12.500 to 14.000 s: no clip fits 2.2 s after the stretch for testing that ends at 12.000 s"
    assert found.dropped == ({lost: 1} if len(rows) == 3 else {})


def test_rows_without_a_stretch_for_testing_lose_nothing(tmp_path, monkeypatch):
    """A row that is too short to be split is for training, and so is the start of the next one."""
    monkeypatch.setattr(Recording, "probe", lambda self: VideoInfo(20.0, 30.0, 64, 48))
    (tmp_path / "a.mp4").touch()
    table = write_table(tmp_path / "t.csv", ("video", "start", "stop"), [("a.mp4", 0, 4), ("a.mp4", 4, 20)])
    found = segments.read_recordings(table, segments.Windows(split_by="stretch"))
    assert [s.start for s in found][:3] == pytest.approx([0, 4 - CLIP, 4])


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([("a.mp4", 0, 5), ("a.mp4", 5, 10)], "no row has 6.5 s .*; join rows that adjoin, or give a column split"),
        ([("a.mp4", 0, 5), ("b.mp4", 0, 5)], r"no row has 6.5 s .*; use split_by='recording' .*, or join rows"),
        (None, r"no recording has 6.5 s .*; use split_by='recording'"),
    ],
)
def test_what_is_too_short_for_stretches_has_a_way_out(tmp_path, monkeypatch, rows, words):
    """A split by recording is one only of several recordings."""
    monkeypatch.setattr(Recording, "probe", lambda self: VideoInfo(6.0 if rows is None else 10.5, 30.0, 64, 48))
    films(tmp_path, a=1, b=1)
    table = write_table(tmp_path / "t.csv", ("video", "start", "stop"), rows) if rows else tmp_path
    with pytest.raises(DataError, match=f"cannot be split by stretch: {words}"):
        segments.read_recordings(table, segments.Windows(split_by="stretch"))


def test_a_table_of_recordings(tmp_path):
    films(tmp_path, a=12, b=7)
    write_table(tmp_path / "imu.csv", ("time", "ax"), [])
    table = write_table(
        tmp_path / "t.csv", ("video", "imu", "split"), [("a.mp4", "imu.csv", "test"), ("b.mp4", "", "")]
    )
    found = annotations.read_annotations(table)
    assert {(Path(s.video).name, s.split) for s in found} == {("a.mp4", "test"), ("b.mp4", "train")}
    assert found[0].imu == str(tmp_path / "imu.csv") and [s.start for s in found][:3] == pytest.approx(
        [0, CLIP, 2 * CLIP]
    )
    rows = [("a.mp4", 1, "0:00:05.5", "me", 0.25), ("a.mp4", "8", "", "me", ""), ("./b.mp4", "", 99, "", "")]
    write_table(table, ("video", "start", "stop", "wearer", "imu_offset"), rows)
    found = annotations.read_annotations(table, windows=segments.Windows(stride=10.0))
    times = [(s.start, s.wearer, s.imu_offset) for s in found]
    whole = [probe(tmp_path / name).duration for name in ("a.mp4", "b.mp4")]
    ends = [stop - CLIP for stop in (5.5, *whole)]
    assert times == [
        (1.0, "me", 0.25),
        (pytest.approx(ends[0]), "me", 0.25),
        (8.0, "me", 0.0),
        (pytest.approx(ends[1]), "me", 0.0),
        (0.0, None, 0.0),
        (pytest.approx(ends[2]), None, 0.0),
    ]
    assert len({s.split for s in found[:4]}) == 1 and len({s.split for s in found}) == 2  # parts of one recording
    for row, words in (
        (("gone.mp4", "", "", "", ""), "row 2: no such file"),
        (("a.mp4", 13, "", "", ""), rf"row 2: stop {whole[0]} is not after start 13"),
        (("a.mp4", 13, 14, "", ""), rf"row 2: starts at 13.000 s, but the video ends at {whole[0]:.3f} s"),
    ):
        write_table(table, ("video", "start", "stop", "wearer", "imu_offset"), [row])
        with pytest.raises(DataError, match=words):
            annotations.read_annotations(table)


def test_a_column_that_a_table_of_recordings_does_not_have_is_named(tmp_path):
    films(tmp_path, a=6)
    for column, words in (
        ("id", "unknown column 'id'; known are video, start, stop, imu"),
        ("lable", "no column start, stop, label; its header is video,lable"),
    ):
        table = write_table(tmp_path / "t.csv", ("video", column), [("a.mp4", "x")])
        with pytest.raises(DataError, match=f"t.csv: {words}"):
            annotations.read_annotations(table)


def test_recordings_that_cannot_be_split_are_named(tmp_path):
    with pytest.raises(DataError, match=r"long: one recording cannot be split by recording; .*--split-by stretch"):
        segments.read_recordings(films(tmp_path / "long", a=7))
    one = films(tmp_path / "one", a=6)
    with pytest.raises(DataError, match=r"one: one recording .* by recording; add recordings, or give a table .*$"):
        segments.read_recordings(one)  # too short for stretches
    (one / "torn.mp4").write_bytes(b"0123")  # what could not be used is told, since it would have been the second
    with pytest.raises(DataError, match=r"one recording cannot be split.*Not used: .*torn\.mp4"):
        segments.read_recordings(one)
    (one / "torn.mp4").unlink()
    with pytest.raises(DataError, match=r"one: cannot be split by stretch: no recording .*; add recordings$"):
        segments.read_recordings(one, segments.Windows(split_by="stretch"))
    with pytest.raises(DataError, match=r"two: cannot be split by stretch: no recording .*--split-by recording"):
        segments.read_recordings(films(tmp_path / "two", a=6, b=6), segments.Windows(split_by="stretch"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"empty: no recordings: no video \(.*\.mp4"):
        annotations.read_annotations(tmp_path / "empty")
    (tmp_path / "empty" / "walk.vrs").touch()
    with pytest.raises(DataError, match=r"empty: no recordings.*`egodistill convert` makes videos of its .vrs files"):
        annotations.read_annotations(tmp_path / "empty")
    (tmp_path / "empty" / "a.mp4").write_bytes(b"broken")
    with pytest.raises(DataError, match=r"empty: none of its recordings can be used: .*a.mp4"):
        annotations.read_annotations(tmp_path / "empty")
    with pytest.raises(DataError, match=r"one: min_instances .* is for public data sets"):
        annotations.read_annotations(one, min_instances=3)
    labelled = write_table(tmp_path / "t.csv", ("video", "start", "stop", "label"), [])
    with pytest.raises(DataError, match=r"t.csv: has labels, whose segments are the clips; stride .*, split_by"):
        annotations.read_annotations(labelled, windows=segments.Windows())
    for wrong, words in (
        ({"stride": 0.0}, "stride .* must be at least 0.021 s"),
        ({"stride": math.inf}, "stride .* must be"),
        ({"split_by": "wearer"}, "split_by .* must be 'recording' or 'stretch'; got 'wearer'"),
        ({"test_share": 1.0}, "test_share .* is a share"),
    ):
        with pytest.raises(DataError, match=words):
            segments.Windows(**wrong)


def test_a_setting_of_the_split_that_would_have_no_effect_is_an_error(tmp_path):
    folder = films(tmp_path / "films", a=7, b=7)
    windows = segments.Windows(split_by="stretch")
    for seed in (0, 3):
        with pytest.raises(DataError, match=r"films: .* seed \(--split-seed\), or use .*--split-by"):
            annotations.read_annotations(folder, seed=seed, windows=windows)
    table = write_table(folder / "t.csv", ("video", "split"), [("a.mp4", "test"), ("b.mp4", "train")])
    for ignored in (windows, segments.Windows(test_share=0.5), segments.Windows(seed=3)):
        with pytest.raises(DataError, match=r"t\.csv: its column split .*--split-by.*--test-share.*--split-seed"):
            annotations.read_annotations(table, windows=ignored)
    with pytest.raises(DataError, match=r"t\.csv: its column split"):
        annotations.read_annotations(table, seed=3)
    assert annotations.read_annotations(table, windows=segments.Windows(stride=1.0))


def test_tables_name_the_axes_of_each_recording(kitchen, tmp_path):
    video, (accel, gyro) = kitchen[0].video, kitchen[0].imu
    table = tmp_path / "t.csv"
    for header, row, read in (
        ("video,start,stop,label,imu,imu_axes", f"{video},0,2,wash,{accel};{gyro},", segments.read_csv),
        ("video,imu,split,imu_axes", f"{video},{accel};{gyro},train,", segments.read_recordings),
    ):
        table.write_text(f"{header}\n{row}XZy\n{row}\n{row}glasses\n")
        found = list(dict.fromkeys(segment.imu_axes for segment in read(table)))
        assert found == ["XZy", "gopro", "glasses"]
        table.write_text(f"{header}\n{row}\n{row}xZy\n")
        with pytest.raises(DataError, match=r"t.csv, row 3: imu_axes: the rotation of axes 'xZy' mirrors"):
            read(table)


def test_axes_of_all_segments(kitchen):
    found = segments.with_imu_axes(segments.SegmentList(kitchen, {"no video": 2}), "XZy")
    assert found.dropped == {"no video": 2} and {one.imu_axes for one in found} == {"XZy"}
    assert [replace(one, imu_axes="gopro") for one in found] == kitchen


def logs_of(folder, **begins):
    """A table of three logs of three wearers, without videos, and one with a video's name."""
    for k, (name, begin) in enumerate(begins.items()):
        write_log(folder / f"{name}.csv", begin=begin, seconds=8.0, rate=50.0, seed=k)
    rows = [
        ("", f"{name}.csv", begin, begin + 7.5, "ab"[k % 2], f"P{k}") for k, (name, begin) in enumerate(begins.items())
    ]
    return write_table(folder / "t.csv", "video imu start stop label wearer".split(), rows)


def test_longer_clips_of_recordings_do_not_share_moments(tmp_path):
    """Stretches of clips of 10 s have more than 10 s between them, and a shorter gap is a contradiction."""
    write_log(tmp_path / "a.csv", seconds=400.0, rate=20.0)
    (tmp_path / "t.csv").write_text("video,imu\n,a.csv\n")
    windows = segments.Windows(split_by="stretch", clip_seconds=10.0)
    found = segments.read_recordings(tmp_path / "t.csv", windows)
    assert {round(one.stop - one.start, 6) for one in found} == {10.0}
    assert {one.split for one in found} == {"train", "test"}
    assert found[1].start == found[0].start + 10.0  # the default stride
    tests = [one for one in found if one.split == "test"]
    apart = [max(b.start - a.stop, a.start - b.stop) for a in tests for b in found if b.split == "train"]
    assert min(apart) > 10.0
    assert table_checks.find(found, clip_seconds=10.0) == []
    near = [replace(found[0], start=0, stop=3, split="train"), replace(found[1], start=6, stop=9, split="test")]
    assert table_checks.find(near) == []
    assert "its clips of 10.00 s share moments" in table_checks.find(near, clip_seconds=10.0)[0].text
    with pytest.raises(data.DataError, match=r"stride .* must be at least 0\.100 s"):
        segments.Windows(stride=0.09, clip_seconds=10.0)


def test_recordings_without_a_video_are_known_by_their_imu(tmp_path):
    table = logs_of(tmp_path, one=0.0, two=0.0, three=100.0)
    found = data.read_csv(table)
    assert [(one.id, one.video, Path(one.path).name) for one in found] == [
        ("one_0", "", "one.csv"),
        ("two_1", "", "two.csv"),
        ("three_2", "", "three.csv"),
    ]
    assert not segments.overlapping_splits([replace(one, split=f"s{k}") for k, one in enumerate(found)])
    twice = [replace(found[0], split="train"), replace(found[0], id="x", split="test")]
    assert len(segments.overlapping_splits(twice)) == 1
    (tmp_path / "link.csv").symlink_to(tmp_path / "one.csv")
    link = replace(found[0], id="y", imu=str(tmp_path / "link.csv"))
    assert data.SegmentList([*found, link])[-1].path == found[0].path
    others = data.SegmentList(found, origin=segments.Origin(left_out=(link,))).origin.left_out
    assert [one.path for one in others] == [found[0].path]  # what it covers is no background of the same file
    offsets = write_table(tmp_path / "o.csv", ["video", "imu_offset"], [("two", 0.5)])
    assert [one.imu_offset for one in data.with_imu_offsets(found, offsets)] == [0.0, 0.5, 0.0]
    write_table(tmp_path / "e.csv", "video imu start stop label".split(), [("", "", 0, 1, "a")])
    with pytest.raises(DataError, match=r"row 2: no such file: \(empty cell\)"):
        data.read_csv(tmp_path / "e.csv")


def test_a_list_of_recordings_may_have_no_video(tmp_path):
    logs_of(tmp_path, one=0.0, two=0.0, three=100.0)
    rows = [("", f"{name}.csv") for name in ("one", "two", "three")]
    table = write_table(tmp_path / "list.csv", ["video", "imu"], rows)
    assert [Path(one.path).stem for one in segments.listed_recordings(table)] == ["one", "two", "three"]
    found = data.read_recordings(table)
    assert sum(len({one.path for one in found if one.split == split}) for split in ("train", "test")) == 3
    assert {one.split for one in found} == {"train", "test"} and not found.dropped
    late = [one for one in found if "three" in one.path]
    assert late[0].start == 100.0 and late[-1].stop == pytest.approx(107.98) and len(late) == 4
    table = write_table(tmp_path / "late.csv", ["video", "imu", "start", "stop"], [("", "one.csv", 9, 12)])
    with pytest.raises(DataError, match=r"row 2: starts at 9.000 s, but the samples end at 7.980 s"):
        data.read_recordings(table)


def train_segments(wearers, recordings, folder="/films", each=4):
    """Segments of 2 s with a label, every 5 s."""
    found = []
    for k in range(recordings):
        wearer = f"P{k % wearers}" if wearers else None
        of_video = [(f"{k}_{n}", 5.0 * n, f"{'ab'[n % 2]}") for n in range(each)]
        about = {"wearer": wearer, "imu": f"{folder}/v{k}.csv"}
        found += [
            data.Segment(id, f"{folder}/v{k}.mp4", start, start + 2, label, **about) for id, start, label in of_video
        ]
    return found


def held_out(segments, by, **options):
    found = with_calibration(segments, 0.1, **options)
    chosen = {getattr(one, by) for one in found if one.split == "calibration"}
    assert not chosen & {getattr(one, by) for one in found if one.split == "train"}
    assert [(one.id, one.label, one.start) for one in found] == [(one.id, one.label, one.start) for one in segments]
    return chosen


def test_a_tenth_of_the_training_wearers_is_held_out_by_a_rule_of_their_names():
    """Wherever the files lie, in any order; of those for training alone, and if enough clips have a label."""
    segments = train_segments(20, 40, each=16)
    chosen = held_out(segments, "wearer")
    assert len(chosen) == 2 and held_out(segments[::-1], "wearer") == chosen
    assert held_out(train_segments(20, 40, "/other/place", each=16), "wearer") == chosen
    tests = [replace(one, split="test") if one.wearer in ("P3", "P4") else one for one in segments]
    found = with_calibration(tests, 0.1)
    assert [one.split for one in found if one.wearer in ("P3", "P4")] == ["test"] * 64
    assert sum(one.split == "calibration" for one in found) == 64
    unlabelled = [replace(one, label=None) if one.start > 5 else one for one in segments]  # of each wearer 4 are left
    assert not held_out(unlabelled, "wearer")


def test_recordings_are_held_out_where_wearers_are_unknown_or_few():
    for wearers in (0, 4):
        chosen = held_out(train_segments(wearers, 30, each=20), "path")
        assert len(chosen) == 3
        assert {Path(one).name for one in chosen} == {
            Path(one).name for one in held_out(train_segments(wearers, 30, "/b", each=20), "path")
        }
    assert len(held_out(train_segments(5, 30, each=20), "wearer")) == 1


def test_too_few_clips_or_recordings_are_all_trained_on():
    """A tenth of 20 wearers has 2 * 2 * 12 clips of 2 s: below 50; of shorter clips there are more."""
    segments = train_segments(20, 40, each=12)
    assert not held_out(segments, "wearer")
    assert len(held_out(segments, "wearer", clip_seconds=1.0)) == 2
    assert not held_out(train_segments(0, 4, each=100), "path")
    own = [replace(one, split="calibration") if one.wearer == "P7" else one for one in train_segments(20, 40, each=16)]
    assert held_out(own, "wearer") == {"P7"}  # a table's own split stays
