"""Annotations of data sets: what is read, what is left out, and what errors say."""

import csv
import json
import math
import os
import pickle
import subprocess
import sys
import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from painted import CLIP, STEADY, write_epic_imu, write_sound, write_table, write_video

from egodistill import DataError, annotations
from egodistill.clips import Recording
from egodistill.imu import IMUError, read_imu
from egodistill.video import VideoInfo, probe

EPIC = ("narration_id", "participant_id", "video_id", "start_timestamp", "stop_timestamp", "verb", "verb_class")


def epic_row(number, video, verb="take", verb_class=0, start="00:00:01.50", stop="00:01:02.25"):
    return f"{video}_{number}", video.split("_")[0], video, start, stop, verb, verb_class


def test_epic_kitchens_reads_times_split_labels_and_paths(tmp_path):
    for video in ("P01_101", "P30_107"):
        write_epic_imu(tmp_path / video[:3] / "meta_data", video, 2)
    write_epic_imu(tmp_path / "P02" / "meta_data", "P02_101", 2)
    os.remove(tmp_path / "P02/meta_data/P02_101-gyro.csv")
    rows = [
        epic_row(0, "P01_101", "pick-up"),
        epic_row(1, "P30_107", "grab"),
        epic_row(2, "P01_101", "grab"),
        epic_row(3, "P02_101", "grab"),
        epic_row(4, "P01_101", "wash", 2, "01:00:00.1", "01:00:00.35"),
    ]
    table = write_table(tmp_path / "EPIC_100_train.csv", EPIC, rows)
    found = annotations.read_epic_kitchens(table, tmp_path)
    first = found[0]
    assert first.id == "P01_101_0" and (first.start, first.stop) == (1.5, 62.25)
    assert first.video == str(tmp_path / "P01/videos/P01_101.MP4")
    assert first.imu == tuple(str(tmp_path / f"P01/meta_data/P01_101-{kind}.csv") for kind in ("accl", "gyro"))
    assert [s.split for s in found] == ["train", "test", "train", "train"]
    assert [s.label for s in found] == ["grab", "grab", "grab", "wash"]  # the commonest spelling
    assert found[3].start == pytest.approx(3600.1) and found[3].stop == pytest.approx(3600.35)
    assert found.dropped == {"the video has no IMU files": 1}
    few = annotations.read_epic_kitchens(table, tmp_path, min_instances=2, evaluation_wearers=["P01"])
    assert [s.split for s in few] == ["test", "train", "test"]
    assert sum(few.dropped.values()) == 2
    parts = annotations.read_epic_kitchens(table, tmp_path, validation_wearers=["P01"], evaluation_wearers=["P02"])
    assert [s.split for s in parts] == ["validation", "train", "validation", "validation"]
    with pytest.raises(DataError, match="P01: a wearer cannot be for both"):
        annotations.read_epic_kitchens(table, tmp_path, validation_wearers=["P01"], evaluation_wearers=["P01"])
    write_table(tmp_path / "EPIC_100_verb_classes.csv", ("id", "key"), [(0, "TAKE"), (2, "WASH")])
    assert {s.label for s in annotations.read_epic_kitchens(table, tmp_path)} == {"TAKE", "WASH"}


def test_two_epic_classes_with_one_spelling_stay_two(tmp_path):
    write_epic_imu(tmp_path / "P01" / "meta_data", "P01_101", 2)
    rows = [epic_row(0, "P01_101", "turn", 3), epic_row(1, "P01_101", "turn", 7)]
    table = write_table(tmp_path / "a.csv", EPIC, rows)
    assert len({s.label for s in annotations.read_epic_kitchens(table, tmp_path)}) == 2


@pytest.mark.parametrize(
    ("row", "words"),
    [
        (epic_row(0, "../P01_101"), "row 3.*is not a participant"),
        (epic_row(0, "P01_101/x"), "row 3.*is not a participant"),
        (epic_row(0, "P01_101", start="xx"), "row 3.*'xx' is not a time"),
        (epic_row(0, "P01_101", start="nan"), "row 3.*'nan' is not a time"),
        (epic_row(0, "P01_101", start="0:0:0:1"), "row 3.*'0:0:0:1' is not a time"),
        (epic_row(0, "P01_101", start="0:" * 200 + "1"), "row 3.* is not a time"),  # 60**200 is not a float
        (epic_row(0, "P01_101", start="00:02:00"), "row 3.*is not after"),
        (epic_row(0, "P01_101", verb_class="?"), "row 3.*verb_class '\\?'"),
        (epic_row(0, "P01_101")[:5], "row 3.*fewer cells"),
    ],
)
def test_epic_kitchens_names_file_and_row(tmp_path, row, words):
    write_epic_imu(tmp_path / "P01" / "meta_data", "P01_101", 2)
    table = write_table(tmp_path / "a.csv", EPIC, [epic_row(9, "P01_101"), row])
    with pytest.raises(DataError, match=f"a.csv, {words}"):
        annotations.read_epic_kitchens(table, tmp_path)


def test_epic_kitchens_without_imu_or_labels_says_so(tmp_path):
    table = write_table(tmp_path / "EPIC_100_validation.csv", EPIC, [epic_row(0, "P01_11")])
    with pytest.raises(DataError, match="validation split has IMU"):
        annotations.read_epic_kitchens(table, tmp_path)
    table = write_table(tmp_path / "test_timestamps.csv", EPIC[:5], [epic_row(0, "P01_11")[:5]])
    with pytest.raises(DataError, match="no column verb, verb_class"):
        annotations.read_epic_kitchens(table, tmp_path)


def test_real_epic_kitchens_tables(sample, tmp_path):
    """The README's counts: P30 has 11 videos, 2,842 rows and 56 verb classes, all with IMU."""
    with open(sample("epic-kitchens-100/imu_videos.csv"), newline="") as file:
        for row in csv.DictReader(file):
            folder = tmp_path / row["participant_id"] / "meta_data"
            folder.mkdir(parents=True, exist_ok=True)
            for kind in ("accl", "gyro"):
                (folder / f"{row['video_id']}-{kind}.csv").touch()
    found = annotations.read_epic_kitchens(sample("epic-kitchens-100/EPIC_100_uda_target_val.csv"), tmp_path)
    assert len(found) == 7906 and not found.dropped
    test = [s for s in found if s.split == "test"]
    assert len(test) == 2842 and len({s.video for s in test}) == 11
    assert len({s.label for s in test}) == 56
    assert (found[0].label, found[0].start, found[0].stop) == ("turn-on", 2.6, 3.86)
    joined = annotations.read_epic_kitchens(sample("epic-kitchens-100/imu_train_subset_joined.csv"), tmp_path)
    assert len(joined) == 5138 and {s.split for s in joined} == {"train"}
    with pytest.raises(DataError, match=r"none of its 138 videos.*validation"):
        annotations.read_epic_kitchens(sample("epic-kitchens-100/EPIC_100_validation.csv"), tmp_path)


def test_read_csv(tmp_path):
    for name in ("a.mp4", "a.csv", "g.csv"):
        (tmp_path / name).touch()
    header = ("video", "start", "stop", "label", "imu", "split", "id")
    rows = [
        ("a.mp4", "1.5", "3", "cut", "a.csv;g.csv", "test", "x"),
        ("a.mp4", "0:01:01", "62.5", "", "", "", ""),
        ("a.mp4", 0, 1, "cut", "a.csv", "", ""),
    ]
    found = annotations.read_csv(write_table(tmp_path / "t.csv", header, rows))
    pair = (str(tmp_path / "a.csv"), str(tmp_path / "g.csv"))
    assert found[0] == annotations.Segment("x", str(tmp_path / "a.mp4"), 1.5, 3.0, "cut", pair, "test")
    assert (found[1].start, found[1].label, found[1].imu) == (61.0, None, None)
    assert found[1].split == "train" and found[2].imu == pair[0]
    assert len({s.id for s in found}) == 3
    paths = replace(found[0], video=tmp_path / "a.mp4", imu=[tmp_path / "a.csv", pair[1]])
    assert paths == found[0]  # paths are as good as strings
    short = write_table(tmp_path / "s.csv", header[:4], [("a.mp4", 0, 1, "cut")])
    assert annotations.read_csv(short)[0].imu is None


@pytest.mark.parametrize(
    ("row", "words"),
    [
        (("b.mp4", 0, 1, "x", ""), "row 2: no such file: .*b.mp4"),
        (("a.mp4", 1, 1, "x", ""), "row 2: stop 1 is not after start 1"),
        (("a.mp4", -1, 1, "x", ""), "row 2: '-1' is not a time"),
        (("a.mp4", 0, "inf", "x", ""), "row 2: 'inf' is not a time"),
        (("a.mp4", 0, 1, "x", "no.csv"), "row 2: no such file: .*no.csv"),
        (("a.mp4", 0, 1, "x", "a.mp4;a.mp4;a.mp4"), "row 2: imu must be one file"),
    ],
)
def test_read_csv_names_file_and_row(tmp_path, row, words):
    (tmp_path / "a.mp4").touch()
    table = write_table(tmp_path / "t.csv", ("video", "start", "stop", "label", "imu"), [row])
    with pytest.raises(DataError, match=f"t.csv, {words}"):
        annotations.read_csv(table)
    with pytest.raises(DataError, match="no column label; its header is video,start,stop"):
        annotations.read_csv(write_table(table, ("video", "start", "stop"), []))
    with pytest.raises(DataError, match=r"gone.csv: cannot be read"):
        annotations.read_csv(tmp_path / "gone.csv")


@pytest.mark.parametrize(
    ("text", "words"),
    [
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
        annotations.read_csv(tmp_path / "t.csv")


def test_names_of_columns_in_any_case_and_columns_of_comments(tmp_path):
    (tmp_path / "a.mp4").touch()
    (tmp_path / "t.csv").write_text(
        ",Video, START ,stop,Label,#note,_by,\n0,a.mp4,0,1,cut,x,y,\n\n1,a.mp4,1,2,cut,,,\n"
    )
    assert [(s.start, s.label) for s in annotations.read_csv(tmp_path / "t.csv")] == [(0, "cut"), (1, "cut")]


def test_csv_columns_for_clock_and_classes(tmp_path):
    (tmp_path / "a.mp4").touch()
    header = ("video", "start", "stop", "label", "imu_offset", "imu_stretch")
    table = write_table(
        tmp_path / "t.csv", header, [("a.mp4", 0, 1, "cut", "-0.25", "1.01"), ("a.mp4", 0, 1, "cut", "", "")]
    )
    first, second = annotations.read_csv(table, class_names=["cut"])
    assert (first.imu_offset, first.imu_stretch) == (-0.25, 1.01)
    assert (second.imu_offset, second.imu_stretch) == (0.0, 1.0)
    with pytest.raises(DataError, match=r"t.csv, row 2: the label 'cut' is not one of the 1 class names"):
        annotations.read_csv(table, class_names=["put"])
    for cells, words in ((("x", "1"), "imu_offset 'x'"), (("0", "3"), "imu_stretch 3.0")):
        write_table(table, header, [("a.mp4", 0, 1, "cut", *cells)])
        with pytest.raises(DataError, match=f"row 2: {words}"):
            annotations.read_csv(table)


def test_imu_offsets_from_a_table(tmp_path):
    segments = [
        annotations.Segment("1", "/x/a.mp4", 0, 1, imu_offset=0.5),
        annotations.Segment("2", "/x/b.mp4", 0, 1),
        annotations.Segment("3", "/y/b.mp4", 0, 1),
    ]
    table = write_table(
        tmp_path / "o.csv", ("video", "imu_offset", "imu_stretch"), [("a", "0.25", "1.1"), ("/y/b.mp4", "-1", "")]
    )
    moved = annotations.with_imu_offsets(annotations.SegmentList(segments, {"why": 1}), table)
    assert [s.imu_offset for s in moved] == pytest.approx([0.5 * 1.1 + 0.25, 0, -1])
    assert [s.imu_stretch for s in moved] == [1.1, 1, 1] and moved.dropped == {"why": 1}
    for name in ("b.mp4", "c"):
        write_table(table, ("video", "imu_offset"), [(name, 0)])
        with pytest.raises(DataError, match=f"row 2: '{name}' matches"):
            annotations.with_imu_offsets(segments, table)


def test_epic_split_by_another_word_and_videos_without_sound(tmp_path):
    for name in ("P01_101", "P30_107"):
        write_epic_imu(tmp_path / name[:3] / "meta_data", name, 2)
        (tmp_path / name[:3] / "videos").mkdir()
    write_video(tmp_path / "P01/videos/P01_101.MP4", STEADY[:5])
    write_sound(tmp_path / "P30/videos/P30_107.MP4", np.zeros(16000), 16000)
    rows = [epic_row(0, "P01_101"), epic_row(1, "P30_107")]
    table = write_table(tmp_path / "t.csv", EPIC, rows)
    assert {s.split for s in annotations.read_epic_kitchens(table, tmp_path, split="all")} == {"all"}
    heard = annotations.read_epic_kitchens(table, tmp_path, audio=True)
    assert [s.id for s in heard] == ["P30_107_1"] and heard.dropped == {"the video has no audio": 1}
    Path(tmp_path / "P01/videos/P01_101.MP4").write_bytes(b"")  # one bad video among many
    assert annotations.read_epic_kitchens(table, tmp_path, audio=True).dropped == {"the video cannot be opened": 1}


def ego4d_action(uid, pre=60, post=120, verb="cut_(trim)", **others):
    return {
        "narration_annotation_uid": uid,
        "start_sec": 1.0,
        "end_sec": 9.0,
        "start_frame": 30,
        "is_rejected": False,
        "is_invalid_annotation": False,
        "warnings": [],
        "structured_verb": verb,
        "critical_frames": {"pre_frame": pre, "post_frame": post},
        "clip_critical_frames": {"pre_frame": pre - 15, "post_frame": post - 15},
        **others,
    }


def ego4d_video(uid, *actions, clip=None):
    return {"video_uid": uid, "annotated_intervals": [{"clip_uid": clip, "narrated_actions": actions}]}


def ego4d_root(folder, *files):
    for name in files:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return folder


def write_json(path, value):
    path.write_text(json.dumps(value))
    return path


def test_ego4d_segments_and_what_is_left_out(tmp_path):
    root = ego4d_root(
        tmp_path,
        "v2/imu/a.csv",
        "v2/full_scale/a.mp4",
        "v2/video_540ss/a.mp4",
        "imu/b.csv",
        "v2/clips/c1.mp4",
        "v2/imu/s.csv",
        "v2/full_scale/s.mp4",
        "v2/imu/x.csv",
    )
    frames = [{"frame_type": "pre_frame", "frame_number": 90}, {"frame_type": "post_frame", "frame_number": 99}]
    videos = [
        ego4d_video(
            "a",
            ego4d_action("n1"),
            ego4d_action("n1"),
            ego4d_action("n2", is_rejected=True),
            ego4d_action("n3", is_invalid_annotation=True),
            ego4d_action("n4", warnings=["far"]),
            ego4d_action("n5", critical_frames=None),
            ego4d_action("n6", verb=None),
            ego4d_action("n7", pre=120, post=60),
            ego4d_action("n8", pre=20),
            ego4d_action("n9", critical_frames=None, frames=frames),
            ego4d_action("r", verb="rare"),
        ),
        ego4d_video("b", ego4d_action("m1", pre=300, post=330, clip_critical_frames={"pre_frame": 45}), clip="c1"),
        ego4d_video("s", ego4d_action("m2")),
        ego4d_video("x", ego4d_action("m3")),
        ego4d_video("noimu", ego4d_action("m4")),
    ]
    about = {
        "version": "v2",
        "clips": [],
        "videos": [
            {"video_uid": "s", "is_stereo": True},
            {"video_uid": "a", "is_stereo": False, "video_metadata": {"audio_duration_sec": 9.0}},
        ],
    }
    write_json(root / "ego4d.json", about)
    table = write_json(root / "fho_main.json", {"version": "v2", "videos": videos})
    found = annotations.read_ego4d(table, root)
    whole, boxed, clip = (
        next(s for s in found if word in (s.video, s.start)) for word in (2.0, 3.0, str(root / "v2/clips/c1.mp4"))
    )
    assert (whole.video, whole.imu) == (str(root / "v2/full_scale/a.mp4"), str(root / "v2/imu/a.csv"))
    assert (whole.stop, whole.label, whole.imu_offset) == (4.0, "cut_(trim)", 0)
    assert boxed.stop == 3.3
    # The clip begins 8.5 s into the video: its pre_frame 45 is the video's 300.
    assert (clip.start, clip.stop, clip.imu_offset) == (1.5, 2.5, -8.5)
    assert len(found) == 3 and {s.split for s in found} == {"train", "test"}
    assert found.dropped == {
        "annotated twice": 1,
        "rejected": 1,
        "invalid": 1,
        "with warnings": 1,
        "no critical frames": 1,
        "no structured verb": 1,
        "pre_frame and post_frame are not in order": 2,
        "the video shows two views (stereo)": 1,
        "neither the video nor its clip exists": 1,
        "the video has no IMU file": 1,
        "the class has fewer than 2 segments": 1,
    }
    assert len(annotations.read_ego4d(table, root, min_instances=1)) == 4  # 'rare' goes to train or test
    write_json(root / "ego4d.json", {"videos": [{"video_uid": "a", "video_metadata": {"audio_duration_sec": None}}]})
    sound = annotations.read_ego4d(table, root, audio=True, min_instances=1)
    assert sound.dropped["the video has no audio"] == 4 and next(s.label for s in sound) == "cut_(trim)"
    write_json(root / "ego4d.json", about)
    # The consortium's master file: a dict of videos.
    master = {"video_data": {v.pop("video_uid"): v for v in videos}, "state_changes": {"x": 1}}
    assert annotations.read_ego4d(write_json(root / "fho.json", master), root) == found


def test_ego4d_filters_before_it_looks_for_twins(tmp_path):
    root = ego4d_root(tmp_path, "imu/a.csv", "full_scale/a.mp4")
    video = ego4d_video("a", ego4d_action("n1", is_rejected=True), ego4d_action("n1"), ego4d_action("n1"))
    hidden = {"clip_uid": None, "redacted": True, "narrated_actions": [ego4d_action("n2"), ego4d_action("n2")]}
    video["annotated_intervals"].append(hidden)
    others = ego4d_video("a", *(ego4d_action(f"o{k}", verb="[other]") for k in range(3)))
    table = write_json(root / "f.json", {"videos": [video, others]})
    found = annotations.read_ego4d(table, root, min_instances=1)
    assert [s.label for s in found] == ["cut_(trim)"]
    assert found.dropped == {
        "rejected": 1,
        "annotated twice": 1,
        "redacted": 2,
        "the verb is [other]": 3,
    }
    found = annotations.read_ego4d(table, root, min_instances=1, keep_other=True)
    assert sorted(s.label for s in found) == ["[other]"] * 3 + ["cut_(trim)"]


def test_ego4d_split_is_70_30_in_each_class_and_stays(tmp_path):
    root = ego4d_root(tmp_path, "imu/a.csv", "full_scale/a.mp4")
    actions = [
        ego4d_action(f"n{i}", pre=30 + i, post=400, verb=verb)
        for i, verb in enumerate(["two"] * 2 + ["three"] * 3 + ["many"] * 100)
    ]
    table = write_json(root / "f.json", {"videos": [ego4d_video("a", *actions)]})

    def tests(found):
        return {s.start for s in found if s.split == "test"}

    found = annotations.read_ego4d(table, root)
    for verb, count in (("two", 1), ("three", 1), ("many", 30)):
        assert sum(s.split == "test" for s in found if s.label == verb) == count
    write_json(table, {"videos": [ego4d_video("a", *actions[::-1])]})
    assert tests(annotations.read_ego4d(table, root)) == tests(found)
    assert tests(annotations.read_ego4d(table, root, seed=1)) != tests(found)


def test_ego4d_actions_without_a_uid_are_told_apart_by_their_video(tmp_path):
    root = ego4d_root(tmp_path, *[name for v in "ab" for name in (f"imu/{v}.csv", f"full_scale/{v}.mp4")])
    table = write_json(root / "f.json", {"videos": [ego4d_video(v, ego4d_action(None)) for v in "ab"]})
    found = annotations.read_ego4d(table, root)
    assert len(found) == 2 and len({s.id for s in found}) == 2 and not found.dropped


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "character 0: it ends here"),
        ("[]", "character 0: expected one of {"),
        ('{"version": "v2"}', "no 'videos'"),
        ('{"videos": [{"video_uid": "a"', "character .*: it ends here|truncated"),
        ('{"videos": [{"video_uid": "a"} {', "character 31: expected one of ,"),
        ('{"videos": 3}', "expected one of"),
        ('{"videos": [3]}', r"videos\[0\]: not a JSON object"),
        ('{"videos": [{"video_uid": "../a"}]}', r"videos\[0\]: '../a' is not a video or clip uid"),
        ('{"videos": [{"video_uid": "a", "x": ' + "[" * 100_000, "nested too deep|cut off"),
        ('{"videos": [{"x": nope}]}', "Expecting value"),
        ('{"videos": []}', "no usable action in 0 videos"),
        ('{"videos": [{"video_uid": "a", "annotated_intervals": [3]}]}', "not in the layout of Ego4D's"),
        ('{"videos": [{"video_uid": "a", "annotated_intervals": 3}]}', "not in the layout of Ego4D's"),
        (
            '{"videos": [{"video_uid": "a", "annotated_intervals":'
            ' [{"narrated_actions": [{"critical_frames": [1]}]}]}]}',
            "not in the layout of Ego4D's",
        ),
    ],
)
def test_ego4d_files_that_are_broken(tmp_path, text, words):
    (tmp_path / "f.json").write_text(text)
    with pytest.raises(DataError, match=f"f.json.*({words})"):
        annotations.read_ego4d(tmp_path / "f.json", tmp_path)
    with pytest.raises(DataError, match=r"gone.json: cannot be read"):
        annotations.read_ego4d(tmp_path / "gone.json", tmp_path)


def test_code_in_a_table_does_not_run(tmp_path):
    """A pickle under the name of each kind of table, alone and in the cells of one: to all readers it is text."""

    class Evil:
        def __reduce__(self):
            return open, (str(tmp_path / "ran"), "w")

    (tmp_path / "a.mp4").touch()
    header = "video,start,stop,label,imu,imu_offset,Milliseconds,AcclX,AcclY,AcclZ,GyroX,GyroY,GyroZ," + ",".join(EPIC)
    for number in (0, 2):
        code = pickle.dumps(Evil(), number)
        for name in ("x.csv", "fho_main.json"):
            for content in (code, header.encode() + b"\n" + (code.replace(b"\n", b" ") + b",") * 20 + b"\n"):
                path = tmp_path / name
                path.write_bytes(content)
                for read in (
                    annotations.read_csv,
                    lambda p: annotations.read_epic_kitchens(p, tmp_path),
                    read_imu,
                    lambda p: annotations.read_ego4d(p, tmp_path),
                    lambda p: annotations.with_imu_offsets([], p),
                ):
                    with pytest.raises((DataError, IMUError), match=name.replace(".", r"\.")):
                        read(path)
    assert not (tmp_path / "ran").exists()


def test_ego4d_file_is_read_a_video_at_a_time(tmp_path):
    """Peak memory is that of a video, not of the file; and any length of a read gives the same."""
    videos = [ego4d_video(f"v{k}", *[ego4d_action(f"{k}.{i}") for i in range(50)]) for k in range(800)]
    table = write_json(tmp_path / "f.json", {"n": 12.5, "videos": videos, "last": 7})
    size = table.stat().st_size
    tracemalloc.start()
    uids = [item["video_uid"] for _, _, item in annotations.json_items(table, ("videos",))]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert uids == [f"v{k}" for k in range(800)]
    assert size > 12e6 and peak < 6e6
    small = tmp_path / "s.json"
    small.write_text('{"n": 12.5, "a": {"b": []}, "videos": [{"x": -1.25e3, "y": "\\u00e9"}, {}], "last": 7}')
    for length in (1, 2, 3, 7):  # every number and word is split somewhere
        items = [item for *_, item in annotations.json_items(small, ("videos",), chunk=length)]
        assert items == [{"x": -1250.0, "y": "\u00e9"}, {}]


def test_formats_are_told_apart(tmp_path):
    write_epic_imu(tmp_path / "P01" / "meta_data", "P01_101", 2)
    epic = write_table(tmp_path / "epic.csv", EPIC, [epic_row(0, "P01_101"), epic_row(1, "P01_101", "wash", 2)])
    assert annotations.read_annotations(epic) == annotations.read_epic_kitchens(epic, tmp_path)
    assert annotations.read_annotations(epic, tmp_path, min_instances=1).dropped == {}
    root = ego4d_root(tmp_path / "ego4d", "imu/a.csv", "full_scale/a.mp4")
    actions = [ego4d_action(f"n{k}", pre=60 + k) for k in range(9)]
    ego4d = write_json(tmp_path / "fho.json", {"videos": [ego4d_video("a", *actions)]})
    found = annotations.read_annotations(ego4d, root, seed=1)
    assert found == annotations.read_ego4d(ego4d, root, seed=1) != annotations.read_ego4d(ego4d, root)
    (tmp_path / "a.mp4").touch()
    own = write_table(tmp_path / "own.csv", ("video", "start", "stop", "label"), [("a.mp4", 0, 1, "cut")])
    assert annotations.read_annotations(own) == annotations.read_csv(own)
    with pytest.raises(DataError, match=r"own.csv: min_instances is for public data sets"):
        annotations.read_annotations(own, min_instances=2)
    for gone in ("gone.csv", "gone.json"):
        with pytest.raises(DataError, match=f"{gone}: cannot be read"):
            annotations.read_annotations(tmp_path / gone)


def test_the_module_is_found_under_its_name():
    """`from __future__ import annotations` in egodistill.py would put something else there."""
    code = "from egodistill import annotations; annotations.read_csv; print('found')"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=Path(annotations.__file__).parent, capture_output=True, text=True, timeout=60)
    assert done.stdout == "found\n", done.stderr


@pytest.mark.skipif(not Path("/dev/zero").exists(), reason="no devices on this system")
def test_tables_are_regular_files(tmp_path):
    os.mkfifo(tmp_path / "pipe.csv")
    os.symlink(tmp_path / "loop.csv", tmp_path / "loop.csv")
    for path, words in (("/dev/zero", "a device"), (tmp_path / "pipe.csv", "a pipe"), (tmp_path, "a folder")):
        for read in (
            annotations.read_annotations,
            annotations.read_csv,
            lambda path: annotations.with_imu_offsets([], path),
        ):
            recordings = path == tmp_path and read is annotations.read_annotations
            wanted = "no recordings" if recordings else f"{words}, not a regular file"
            with pytest.raises(DataError, match=f"{path}: {wanted}"):
                read(path)
        with pytest.raises(DataError, match=f"{path}: {words}, not a regular file"):
            annotations.read_ego4d(path, tmp_path)
    with pytest.raises(DataError, match="Too many levels of symbolic links"):
        annotations.read_annotations(tmp_path / "loop.csv")


def test_tables_have_a_bounded_size(tmp_path, monkeypatch):
    path = tmp_path / "holes.csv"
    path.touch()
    os.truncate(path, 1 << 40)  # takes no space on the disk
    with pytest.raises(DataError, match=r"holes.csv: 1099512 MB, more than the"):
        annotations.read_csv(path)
    path.write_text("video,start,stop,label\n" + "x" * (1 << 20))
    with pytest.raises(DataError, match="a line has more than 1048576 characters"):
        annotations.read_csv(path)
    monkeypatch.setattr("egodistill.annotations.LARGEST_VALUE", 1000)
    (tmp_path / "a.json").write_text('{"videos": [[' + "1," * 600_000)
    with pytest.raises(DataError, match="one value has more than 1000 characters"):
        annotations.read_ego4d(tmp_path / "a.json", tmp_path)


def test_numbers_of_thousands_of_digits_are_errors(tmp_path):
    """Python refuses to convert them, and dividing them overflows."""
    (tmp_path / "imu").mkdir()
    (tmp_path / "imu" / "walk.csv").touch()
    for digits, words in (
        (5000, "a number of thousands of digits"),
        (400, "pre_frame and post_frame are not in order"),
    ):
        frames = f'{{"pre_frame": 1, "post_frame": {"9" * digits}}}'
        action = f'{{"structured_verb": "cut", "critical_frames": {frames}}}'
        interval = f'{{"clip_uid": null, "narrated_actions": [{action}]}}'
        text = f'{{"videos": [{{"video_uid": "walk", "annotated_intervals": [{interval}]}}]}}'
        (tmp_path / "fho_main.json").write_text(text)
        with pytest.raises(DataError, match=words):
            annotations.read_ego4d(tmp_path / "fho_main.json", tmp_path)
    header = "narration_id,participant_id,video_id,start_timestamp,stop_timestamp,verb,verb_class"
    (tmp_path / "EPIC.csv").write_text(f"{header}\nn,P01,P01_101,0,1,cut,{'9' * 5000}\n")
    with pytest.raises(DataError, match=r"EPIC.csv, row 2: verb_class '9+' is not the whole number of a class"):
        annotations.read_epic_kitchens(tmp_path / "EPIC.csv", tmp_path)


def test_ego4d_splits_each_class_by_the_rounded_share(tmp_path):
    root = ego4d_root(tmp_path, "imu/a.csv", "full_scale/a.mp4")
    for share, expected in ((0.3, {2: 1, 3: 1, 5: 2, 6: 2, 11: 3}), (0.9, {2: 1, 3: 2, 5: 4, 6: 5, 11: 10})):
        for count, tests in expected.items():
            actions = [ego4d_action(f"n{k}") for k in range(count)]
            table = write_json(root / "fho.json", {"videos": [ego4d_video("a", *actions)]})
            splits = [segment.split for segment in annotations.read_ego4d(table, root, test_share=share)]
            assert (splits.count("test"), splits.count("train")) == (tests, count - tests), (share, count)


def test_ego4d_prefers_the_folder_itself_then_v2(tmp_path):
    root = ego4d_root(tmp_path, *(f"{folder}full_scale/a.mp4" for folder in ("", "v1/", "v2/")), "imu/a.csv")
    table = write_json(root / "fho.json", {"videos": [ego4d_video("a", ego4d_action("1"), ego4d_action("2"))]})
    for folder in ("", "v2", "v1"):
        assert {s.video for s in annotations.read_ego4d(table, root)} == {str(root / folder / "full_scale" / "a.mp4")}
        (root / folder / "full_scale" / "a.mp4").unlink()


def test_ego4d_actions_of_one_narration_at_other_times_are_two(tmp_path):
    root = ego4d_root(tmp_path, "imu/a.csv", "full_scale/a.mp4")
    actions = [ego4d_action("n", start_sec=1.0), ego4d_action("n", start_sec=2.0), ego4d_action("n", start_sec=1.0)]
    actions.append(ego4d_action("n", start_sec=1.0, end_sec=8.0))
    table = write_json(root / "fho.json", {"videos": [ego4d_video("a", *actions)]})
    found = annotations.read_ego4d(table, root)
    assert len(found) == 3 and found.dropped == {"annotated twice": 1}


def test_a_segment_and_its_recording_have_the_same_fields():
    values = {"video": "a.mp4", "imu": ("a.csv", "g.csv"), "imu_offset": 0.5, "imu_stretch": 1.01, "wearer": "P01"}
    segment = annotations.Segment("1", start=1.0, stop=2.0, **values)
    assert {name: getattr(segment.recording, name) for name in values} == values


def test_a_correction_is_applied_on_top_of_the_segments_own_clock(tmp_path):
    """A reading stamped t is at 0.5 + 1.02 t by the segment, and at 0.25 + 1.1 of that by the table."""
    segment = annotations.Segment("1", "a.mp4", 0, 1, imu_offset=0.5, imu_stretch=1.02)
    table = write_table(tmp_path / "o.csv", ("video", "imu_offset", "imu_stretch"), [("a", "0.25", "1.1")])
    (moved,) = annotations.with_imu_offsets([segment], table)
    for t in (0.0, 3.0):
        assert moved.imu_offset + moved.imu_stretch * t == pytest.approx(0.25 + 1.1 * (0.5 + 1.02 * t))


def test_ego4d_takes_wearer_sound_and_views_from_the_data_sets_own_table(tmp_path):
    root = ego4d_root(tmp_path, *(f"imu/{uid}.csv" for uid in "abcd"), *(f"full_scale/{uid}.mp4" for uid in "abcd"))
    about = [
        {"video_uid": "a", "fb_participant_id": 17, "video_metadata": {"audio_duration_sec": 9.5}},
        {"video_uid": "b", "fb_participant_id": "x", "is_stereo": True, "video_metadata": {"audio_duration_sec": 5}},
        {"video_uid": "c", "fb_participant_id": None, "video_metadata": {"audio_duration_sec": None}},
    ]
    write_json(root / "ego4d.json", {"videos": about})
    videos = [ego4d_video(uid, ego4d_action(f"{uid}1"), ego4d_action(f"{uid}2")) for uid in "abcd"]
    table = write_json(root / "fho.json", {"videos": videos})
    found = annotations.read_ego4d(table, root)
    assert [(Path(s.video).stem, s.wearer) for s in found[::2]] == [("a", "17"), ("c", None), ("d", None)]
    assert found.dropped == {"the video shows two views (stereo)": 2}
    heard = annotations.read_ego4d(table, root, audio=True)
    assert {Path(s.video).stem for s in heard} == {"a", "d"}  # nothing is known of d
    assert heard.dropped == {"the video shows two views (stereo)": 2, "the video has no audio": 2}


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
    (found,) = annotations.read_csv(write_table(tmp_path / "t.csv", header, [row]))
    pair = (str(tmp_path / "a.csv"), str(tmp_path / "g.csv"))
    video = str(tmp_path / "a.mp4")
    assert found == annotations.Segment("x1", video, 1.5, 4.5, "cut", pair, "val", -0.25, 1.02, "P07", "XZy")
    assert set(annotations.OPTIONAL_COLUMNS) | {"video", "start", "stop", "label"} == set(header)


# --- Recordings without labels


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
    windows = annotations.Windows(stride=1.0)
    found = annotations.read_recordings(folder, windows)
    assert list(found.dropped.values()) == [1] and "broken.mp4" in next(iter(found.dropped))
    by_video = {}
    for segment in found:
        assert segment.label is None and segment.stop - segment.start == pytest.approx(CLIP)
        by_video.setdefault(Path(segment.video).relative_to(folder).as_posix(), []).append(segment)
    assert list(by_video) == ["a.mp4", "c.mp4", "sub/b.mp4", "sub/d.mp4"]
    starts = [segment.start for segment in by_video["a.mp4"]]
    last = probe(folder / "a.mp4").duration - CLIP
    assert starts == pytest.approx([*range(10), last]) and len({s.id for s in found}) == len(found)
    splits = {name: {segment.split for segment in segments} for name, segments in by_video.items()}
    assert sorted(map(list, splits.values())) == [["test"], ["train"], ["train"], ["train"]]  # 0.3 of 4 is 1.2
    # The same wherever the folder is, another with another seed, and as read_annotations() says.
    for place in "wxyz":
        folder = moved = folder.rename(tmp_path / place)
        again = annotations.read_recordings(moved, windows)
        assert [s.split for s in again] == [s.split for s in found]
    seeds = {tuple(s.split for s in annotations.read_recordings(moved, replace(windows, seed=k))) for k in range(6)}
    assert len(seeds) > 1
    assert annotations.read_annotations(moved, windows=windows) == again
    other = annotations.read_annotations(moved, seed=3, windows=windows)
    assert other == annotations.read_recordings(moved, replace(windows, seed=3))
    halves = annotations.read_recordings(moved, annotations.Windows(test_share=0.5))
    assert len({s.video for s in halves if s.split == "test"}) == 2


@pytest.mark.parametrize(("length", "share"), [(7, 0.3), (60, 0.3), (100, 0.1), (200, 0.5), (400, 0.9)])
def test_stretches_share_no_moment_and_keep_their_distance(length, share, tmp_path, monkeypatch):
    info = VideoInfo(float(length), 30.0, 64, 48, False)
    monkeypatch.setattr(Recording, "probe", lambda self: info)
    (tmp_path / "a.mp4").touch()
    windows = annotations.Windows(stride=0.5, split_by="stretch", test_share=share)
    found = annotations.read_recordings(tmp_path, windows)
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
    found = annotations.read_annotations(table, windows=annotations.Windows(stride=10.0))
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
    one = films(tmp_path / "one", a=6)
    with pytest.raises(DataError, match=r"one: one recording cannot be split by recording; .*--split-by stretch"):
        annotations.read_recordings(one)
    (one / "torn.mp4").write_bytes(b"0123")  # what could not be used is told, since it would have been the second
    with pytest.raises(DataError, match=r"one recording cannot be split.*Not used: .*torn\.mp4"):
        annotations.read_recordings(one)
    (one / "torn.mp4").unlink()
    with pytest.raises(DataError, match=r"one: its recordings are too short .*none has 6\.5 s.*split by recording"):
        annotations.read_recordings(one, annotations.Windows(split_by="stretch"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"empty: no recordings: no video \(.*\.mp4"):
        annotations.read_annotations(tmp_path / "empty")
    (tmp_path / "empty" / "walk.vrs").touch()
    with pytest.raises(DataError, match=r"empty: no recordings.*`egodistill convert` makes videos of its .vrs files"):
        annotations.read_annotations(tmp_path / "empty")
    (tmp_path / "empty" / "a.mp4").write_bytes(b"broken")
    with pytest.raises(DataError, match=r"empty: none of its recordings can be used: .*a.mp4"):
        annotations.read_annotations(tmp_path / "empty")
    with pytest.raises(DataError, match="one: min_instances is for public data sets"):
        annotations.read_annotations(one, min_instances=3)
    labelled = write_table(tmp_path / "t.csv", ("video", "start", "stop", "label"), [])
    with pytest.raises(DataError, match=r"t.csv: has labels, whose segments are the clips; stride, split_by"):
        annotations.read_annotations(labelled, windows=annotations.Windows())
    for wrong, words in (
        ({"stride": 0.0}, "stride must be at least 0.021 s"),
        ({"stride": math.nan}, "stride must be"),
        ({"split_by": "wearer"}, "split_by must be 'recording' or 'stretch'; got 'wearer'"),
        ({"test_share": 1.0}, "test_share is a share"),
    ):
        with pytest.raises(DataError, match=words):
            annotations.Windows(**wrong)


def test_tables_name_the_axes_of_each_recording(kitchen, tmp_path):
    video, (accel, gyro) = kitchen[0].video, kitchen[0].imu
    table = tmp_path / "t.csv"
    for header, row, read in (
        ("video,start,stop,label,imu,imu_axes", f"{video},0,2,wash,{accel};{gyro},", annotations.read_csv),
        ("video,imu,split,imu_axes", f"{video},{accel};{gyro},train,", annotations.read_recordings),
    ):
        table.write_text(f"{header}\n{row}XZy\n{row}\n{row}glasses\n")
        found = list(dict.fromkeys(segment.imu_axes for segment in read(table)))
        assert found == ["XZy", "gopro", "glasses"]
        table.write_text(f"{header}\n{row}\n{row}xZy\n")
        with pytest.raises(DataError, match=r"t.csv, row 3: imu_axes: the turn of axes 'xZy' mirrors"):
            read(table)


def test_axes_of_all_segments(kitchen):
    segments = annotations.SegmentList(kitchen, {"no video": 2})
    found = annotations.with_imu_axes(segments, "XZy")
    assert found.dropped == {"no video": 2} and {one.imu_axes for one in found} == {"XZy"}
    assert [replace(one, imu_axes="gopro") for one in found] == kitchen
