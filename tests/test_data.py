"""The data road: tables, IMU, frames and the clip store, on files made here and on real ones."""

import contextlib
import csv
import dataclasses
import errno
import json
import math
import os
import pickle
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
import tracemalloc
import wave
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from miniature import group_of

from egodistill import data, recordings

BITS, WIDTH, HEIGHT, TICKS = 10, 80, 48, 30000


@pytest.fixture(scope="session")
def sample(sample_data):
    """Path of a real file below the folder of small real recordings."""
    return lambda name: str(sample_data / name)


# --- Files made on the spot ----------------------------------------------------------------------


def paint(number):
    """A picture that shows its number as ten vertical bars, black or white."""
    bars = [255 * (number >> bit & 1) for bit in range(BITS)]
    row = np.repeat(np.array(bars, np.uint8), WIDTH // BITS)
    return np.broadcast_to(row[None, :, None], (HEIGHT, WIDTH, 3))


def number_of(picture):
    """The number painted in a [3, H, W] picture of any size."""
    row = picture.mean((0, 1))
    bars = [part[len(part) // 3 : -(len(part) // 3) or None] for part in np.array_split(row, BITS)]
    return sum((bar.mean() > 128) << bit for bit, bar in enumerate(bars))


def write_video(path, times, codec="libx264", pictures=None, **options):
    """A video whose i-th frame is on screen from times[i] on and shows the number i."""
    titles = options.pop("metadata", {})
    with av.open(str(path), "w", options=options.pop("container", None)) as container:
        container.metadata.update(titles)
        stream = container.add_stream(codec, rate=30)
        stream.metadata.update(titles)
        height, width = (HEIGHT, WIDTH) if pictures is None else pictures[0].shape[:2]
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.time_base = stream.codec_context.time_base = Fraction(1, TICKS)
        stream.options = {key.replace("_", "-"): str(value) for key, value in options.items()}
        for i, seconds in enumerate(times):
            frame = av.VideoFrame.from_ndarray(
                np.ascontiguousarray(paint(i) if pictures is None else pictures[i]), "rgb24"
            )
            frame.pts, frame.time_base = round(seconds * TICKS), Fraction(1, TICKS)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return str(path)


STEADY = np.arange(150) / 25
X264 = {"bf": 3, "g": 24, "crf": 10, "preset": "veryfast"}


def with_latin1(path, text, replacement):
    """Replace a text in a file by one of the same length that is not UTF-8."""
    content, replacement = Path(path).read_bytes(), replacement.encode("latin-1")
    assert len(text) == len(replacement) and text.encode() in content
    Path(path).write_bytes(content.replace(text.encode(), replacement))


@pytest.fixture(scope="module")
def steady(tmp_path_factory):
    """Six seconds at 25 fps with B-frames and a key frame every 24."""
    return write_video(tmp_path_factory.mktemp("video") / "steady.mp4", STEADY, **X264)


def write_table(path, header, rows):
    with open(path, "w", newline="") as file:
        csv.writer(file).writerows([header, *rows])
    return path


def ramp(stamps, slope, offset=0.0):
    """Three channels that grow linearly with time, each with a slope of its own."""
    return np.outer(stamps, np.array([1.0, -2.0, 0.5]) * slope) + offset


def write_epic_imu(folder, name, seconds, slope=1.0):
    """An EPIC-KITCHENS pair of IMU files with ramps; both sensors have stamps of their own."""
    folder.mkdir(parents=True, exist_ok=True)
    accel, gyro = np.arange(-1, seconds, 1 / 200), np.arange(-0.998, seconds, 1 / 190)
    sensors = (("Accl", accel, ramp(accel, slope, 9.8)), ("Gyro", gyro, ramp(gyro, -slope)))
    for word, stamps, values in sensors:
        rows = np.column_stack([stamps * 1000, values])
        header = f"Milliseconds,{word}X,{word}Y,{word}Z"
        path = folder / f"{name}-{word.lower()}.csv"
        np.savetxt(path, rows, "%.6f", delimiter=",", header=header, comments="")
    return tuple(str(folder / f"{name}-{kind}.csv") for kind in ("accl", "gyro"))


# --- Tables --------------------------------------------------------------------------------------

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
    found = data.read_epic_kitchens(table, tmp_path)
    first = found[0]
    assert first.id == "P01_101_0" and (first.start, first.stop) == (1.5, 62.25)
    assert first.video == str(tmp_path / "P01/videos/P01_101.MP4")
    assert first.imu == tuple(str(tmp_path / f"P01/meta_data/P01_101-{kind}.csv") for kind in ("accl", "gyro"))
    assert [s.split for s in found] == ["train", "test", "train", "train"]
    assert [s.label for s in found] == ["grab", "grab", "grab", "wash"]  # the commonest spelling
    assert found[3].start == pytest.approx(3600.1) and found[3].stop == pytest.approx(3600.35)
    assert found.dropped == {"the video has no IMU files": 1}
    few = data.read_epic_kitchens(table, tmp_path, min_instances=2, evaluation_wearers=["P01"])
    assert [s.split for s in few] == ["test", "train", "test"]
    assert sum(few.dropped.values()) == 2
    write_table(tmp_path / "EPIC_100_verb_classes.csv", ("id", "key"), [(0, "TAKE"), (2, "WASH")])
    assert {s.label for s in data.read_epic_kitchens(table, tmp_path)} == {"TAKE", "WASH"}


def test_two_epic_classes_with_one_spelling_stay_two(tmp_path):
    write_epic_imu(tmp_path / "P01" / "meta_data", "P01_101", 2)
    rows = [epic_row(0, "P01_101", "turn", 3), epic_row(1, "P01_101", "turn", 7)]
    table = write_table(tmp_path / "a.csv", EPIC, rows)
    assert len({s.label for s in data.read_epic_kitchens(table, tmp_path)}) == 2


@pytest.mark.parametrize(
    ("row", "words"),
    [
        (epic_row(0, "../P01_101"), "row 3.*id of a participant"),
        (epic_row(0, "P01_101/x"), "row 3.*id of a participant"),
        (epic_row(0, "P01_101", start="xx"), "row 3.*'xx' is not a time"),
        (epic_row(0, "P01_101", start="nan"), "row 3.*'nan' is not a time"),
        (epic_row(0, "P01_101", start="00:02:00"), "row 3.*does not come after"),
        (epic_row(0, "P01_101", verb_class="?"), "row 3.*verb_class '\\?'"),
        (epic_row(0, "P01_101")[:5], "row 3.*fewer cells"),
    ],
)
def test_epic_kitchens_names_file_and_row(tmp_path, row, words):
    write_epic_imu(tmp_path / "P01" / "meta_data", "P01_101", 2)
    table = write_table(tmp_path / "a.csv", EPIC, [epic_row(9, "P01_101"), row])
    with pytest.raises(data.DataError, match=f"a.csv, {words}"):
        data.read_epic_kitchens(table, tmp_path)


def test_epic_kitchens_without_imu_or_labels_says_so(tmp_path):
    table = write_table(tmp_path / "EPIC_100_validation.csv", EPIC, [epic_row(0, "P01_11")])
    with pytest.raises(data.DataError, match="validation split has IMU"):
        data.read_epic_kitchens(table, tmp_path)
    table = write_table(tmp_path / "test_timestamps.csv", EPIC[:5], [epic_row(0, "P01_11")[:5]])
    with pytest.raises(data.DataError, match="no column verb, verb_class"):
        data.read_epic_kitchens(table, tmp_path)


def test_real_epic_kitchens_tables(sample, tmp_path):
    """The README's counts: P30 has 11 videos, 2,842 rows and 56 verb classes, all with IMU."""
    with open(sample("epic-kitchens-100/imu_videos.csv"), newline="") as file:
        for row in csv.DictReader(file):
            folder = tmp_path / row["participant_id"] / "meta_data"
            folder.mkdir(parents=True, exist_ok=True)
            for kind in ("accl", "gyro"):
                (folder / f"{row['video_id']}-{kind}.csv").touch()
    found = data.read_epic_kitchens(sample("epic-kitchens-100/EPIC_100_uda_target_val.csv"), tmp_path)
    assert len(found) == 7906 and not found.dropped
    test = [s for s in found if s.split == "test"]
    assert len(test) == 2842 and len({s.video for s in test}) == 11
    assert len({s.label for s in test}) == 56
    assert (found[0].label, found[0].start, found[0].stop) == ("turn-on", 2.6, 3.86)
    joined = data.read_epic_kitchens(sample("epic-kitchens-100/imu_train_subset_joined.csv"), tmp_path)
    assert len(joined) == 5138 and {s.split for s in joined} == {"train"}
    with pytest.raises(data.DataError, match=r"none of its 138 videos.*validation"):
        data.read_epic_kitchens(sample("epic-kitchens-100/EPIC_100_validation.csv"), tmp_path)


def test_read_csv(tmp_path):
    for name in ("a.mp4", "a.csv", "g.csv"):
        (tmp_path / name).touch()
    header = ("video", "start", "stop", "label", "imu", "split", "id")
    rows = [
        ("a.mp4", "1.5", "3", "cut", "a.csv;g.csv", "test", "x"),
        ("a.mp4", "0:01:01", "62.5", "", "", "", ""),
        ("a.mp4", 0, 1, "cut", "a.csv", "", ""),
    ]
    found = data.read_csv(write_table(tmp_path / "t.csv", header, rows))
    pair = (str(tmp_path / "a.csv"), str(tmp_path / "g.csv"))
    assert found[0] == data.Segment("x", str(tmp_path / "a.mp4"), 1.5, 3.0, "cut", pair, "test")
    assert (found[1].start, found[1].label, found[1].imu) == (61.0, None, None)
    assert found[1].split == "train" and found[2].imu == pair[0]
    assert len({s.id for s in found}) == 3
    paths = replace(found[0], video=tmp_path / "a.mp4", imu=[tmp_path / "a.csv", pair[1]])
    assert paths == found[0]  # paths are as good as strings
    short = write_table(tmp_path / "s.csv", header[:4], [("a.mp4", 0, 1, "cut")])
    assert data.read_csv(short)[0].imu is None


@pytest.mark.parametrize(
    ("row", "words"),
    [
        (("b.mp4", 0, 1, "x", ""), "row 2: no such file: .*b.mp4"),
        (("a.mp4", 1, 1, "x", ""), "row 2: stop 1 does not come after start 1"),
        (("a.mp4", -1, 1, "x", ""), "row 2: '-1' is not a time"),
        (("a.mp4", 0, "inf", "x", ""), "row 2: 'inf' is not a time"),
        (("a.mp4", 0, 1, "x", "no.csv"), "row 2: no such file: .*no.csv"),
        (("a.mp4", 0, 1, "x", "a.mp4;a.mp4;a.mp4"), "row 2: imu is one file"),
    ],
)
def test_read_csv_names_file_and_row(tmp_path, row, words):
    (tmp_path / "a.mp4").touch()
    table = write_table(tmp_path / "t.csv", ("video", "start", "stop", "label", "imu"), [row])
    with pytest.raises(data.DataError, match=f"t.csv, {words}"):
        data.read_csv(table)
    with pytest.raises(data.DataError, match="no column label; it has video, start, stop"):
        data.read_csv(write_table(table, ("video", "start", "stop"), []))
    with pytest.raises(data.DataError, match=r"gone.csv: cannot be read"):
        data.read_csv(tmp_path / "gone.csv")


def test_csv_columns_for_clock_and_classes(tmp_path):
    (tmp_path / "a.mp4").touch()
    header = ("video", "start", "stop", "label", "imu_offset", "imu_stretch")
    table = write_table(
        tmp_path / "t.csv", header, [("a.mp4", 0, 1, "cut", "-0.25", "1.01"), ("a.mp4", 0, 1, "cut", "", "")]
    )
    first, second = data.read_csv(table, class_names=["cut"])
    assert (first.imu_offset, first.imu_stretch) == (-0.25, 1.01)
    assert (second.imu_offset, second.imu_stretch) == (0.0, 1.0)
    with pytest.raises(data.DataError, match=r"t.csv, row 2: 'cut' is not among the 1 class names"):
        data.read_csv(table, class_names=["put"])
    for cells, words in ((("x", "1"), "imu_offset 'x'"), (("0", "3"), "imu_stretch 3.0")):
        write_table(table, header, [("a.mp4", 0, 1, "cut", *cells)])
        with pytest.raises(data.DataError, match=f"row 2: {words}"):
            data.read_csv(table)


def test_imu_offsets_from_a_table(tmp_path):
    segments = [
        data.Segment("1", "/x/a.mp4", 0, 1, imu_offset=0.5),
        data.Segment("2", "/x/b.mp4", 0, 1),
        data.Segment("3", "/y/b.mp4", 0, 1),
    ]
    table = write_table(
        tmp_path / "o.csv", ("video", "imu_offset", "imu_stretch"), [("a", "0.25", "1.1"), ("/y/b.mp4", "-1", "")]
    )
    moved = data.with_imu_offsets(data.SegmentList(segments, {"why": 1}), table)
    assert [s.imu_offset for s in moved] == pytest.approx([0.5 * 1.1 + 0.25, 0, -1])
    assert [s.imu_stretch for s in moved] == [1.1, 1, 1] and moved.dropped == {"why": 1}
    for name in ("b.mp4", "c"):
        write_table(table, ("video", "imu_offset"), [(name, 0)])
        with pytest.raises(data.DataError, match=f"row 2: '{name}' is the name of"):
            data.with_imu_offsets(segments, table)


def test_epic_split_by_another_word_and_videos_without_sound(tmp_path):
    for name in ("P01_101", "P30_107"):
        write_epic_imu(tmp_path / name[:3] / "meta_data", name, 2)
        (tmp_path / name[:3] / "videos").mkdir()
    write_video(tmp_path / "P01/videos/P01_101.MP4", STEADY[:5])
    write_sound(tmp_path / "P30/videos/P30_107.MP4", np.zeros(16000), 16000)
    rows = [epic_row(0, "P01_101"), epic_row(1, "P30_107")]
    table = write_table(tmp_path / "t.csv", EPIC, rows)
    assert {s.split for s in data.read_epic_kitchens(table, tmp_path, split="all")} == {"all"}
    heard = data.read_epic_kitchens(table, tmp_path, audio=True)
    assert [s.id for s in heard] == ["P30_107_1"] and heard.dropped == {"the video has no audio": 1}
    Path(tmp_path / "P01/videos/P01_101.MP4").write_bytes(b"")  # one bad video among many
    assert data.read_epic_kitchens(table, tmp_path, audio=True).dropped == {"the video cannot be opened": 1}


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
    found = data.read_ego4d(table, root)
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
        "neither the video nor its clip is there": 1,
        "the video has no IMU file": 1,
        "the class has fewer than 2 segments": 1,
    }
    assert len(data.read_ego4d(table, root, min_instances=1)) == 4  # 'rare' goes to train or test
    write_json(root / "ego4d.json", {"videos": [{"video_uid": "a", "video_metadata": {"audio_duration_sec": None}}]})
    sound = data.read_ego4d(table, root, audio=True, min_instances=1)
    assert sound.dropped["the video has no audio"] == 3 and next(s.label for s in sound) == "cut_(trim)"
    write_json(root / "ego4d.json", about)
    # The consortium's master file: a dict of videos.
    master = {"video_data": {v.pop("video_uid"): v for v in videos}, "state_changes": {"x": 1}}
    assert data.read_ego4d(write_json(root / "fho.json", master), root) == found


def test_ego4d_split_is_70_30_in_each_class_and_stays(tmp_path):
    root = ego4d_root(tmp_path, "imu/a.csv", "full_scale/a.mp4")
    actions = [
        ego4d_action(f"n{i}", pre=30 + i, post=400, verb=verb)
        for i, verb in enumerate(["two"] * 2 + ["three"] * 3 + ["many"] * 100)
    ]
    table = write_json(root / "f.json", {"videos": [ego4d_video("a", *actions)]})

    def tests(found):
        return {s.start for s in found if s.split == "test"}

    found = data.read_ego4d(table, root)
    for verb, count in (("two", 1), ("three", 1), ("many", 30)):
        assert sum(s.split == "test" for s in found if s.label == verb) == count
    write_json(table, {"videos": [ego4d_video("a", *actions[::-1])]})
    assert tests(data.read_ego4d(table, root)) == tests(found)
    assert tests(data.read_ego4d(table, root, seed=1)) != tests(found)


def test_ego4d_actions_without_a_uid_are_told_apart_by_their_video(tmp_path):
    root = ego4d_root(tmp_path, *[name for v in "ab" for name in (f"imu/{v}.csv", f"full_scale/{v}.mp4")])
    table = write_json(root / "f.json", {"videos": [ego4d_video(v, ego4d_action(None)) for v in "ab"]})
    found = data.read_ego4d(table, root)
    assert len(found) == 2 and len({s.id for s in found}) == 2 and not found.dropped


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "character 0: it ends here"),
        ("[]", "character 0: expected one of {"),
        ('{"version": "v2"}', "has no 'videos'"),
        ('{"videos": [{"video_uid": "a"', "character .*: it ends here|cut off"),
        ('{"videos": [{"video_uid": "a"} {', "character 31: expected one of ,"),
        ('{"videos": 3}', "expected one of"),
        ('{"videos": [3]}', r"videos\[0\]: is not an object"),
        ('{"videos": [{"video_uid": "../a"}]}', r"videos\[0\]: '../a' is not the uid"),
        ('{"videos": [{"video_uid": "a", "x": ' + "[" * 100_000, "nested too deep|cut off"),
        ('{"videos": [{"x": nope}]}', "Expecting value"),
        ('{"videos": []}', "no usable action in 0 videos"),
        ('{"videos": [{"video_uid": "a", "annotated_intervals": [3]}]}', "not laid out as Ego4D's"),
        ('{"videos": [{"video_uid": "a", "annotated_intervals": 3}]}', "not laid out as Ego4D's"),
        (
            '{"videos": [{"video_uid": "a", "annotated_intervals":'
            ' [{"narrated_actions": [{"critical_frames": [1]}]}]}]}',
            "not laid out as Ego4D's",
        ),
    ],
)
def test_ego4d_files_that_are_broken(tmp_path, text, words):
    (tmp_path / "f.json").write_text(text)
    with pytest.raises(data.DataError, match=f"f.json.*({words})"):
        data.read_ego4d(tmp_path / "f.json", tmp_path)
    with pytest.raises(data.DataError, match=r"gone.json: cannot be read"):
        data.read_ego4d(tmp_path / "gone.json", tmp_path)


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
                    data.read_csv,
                    lambda p: data.read_epic_kitchens(p, tmp_path),
                    data.read_imu,
                    lambda p: data.read_ego4d(p, tmp_path),
                    lambda p: data.with_imu_offsets([], p),
                ):
                    with pytest.raises((data.DataError, data.VideoError), match=name.replace(".", r"\.")):
                        read(path)
    assert not (tmp_path / "ran").exists()


def test_ego4d_file_is_read_a_video_at_a_time(tmp_path, monkeypatch):
    """Peak memory is that of a video, not of the file; and any length of a read gives the same."""
    videos = [ego4d_video(f"v{k}", *[ego4d_action(f"{k}.{i}") for i in range(50)]) for k in range(800)]
    table = write_json(tmp_path / "f.json", {"n": 12.5, "videos": videos, "last": 7})
    size = table.stat().st_size
    tracemalloc.start()
    uids = [item["video_uid"] for _, _, item in data._json_items(table, ("videos",))]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert uids == [f"v{k}" for k in range(800)]
    assert size > 12e6 and peak < 6e6
    small = tmp_path / "s.json"
    small.write_text('{"n": 12.5, "a": {"b": []}, "videos": [{"x": -1.25e3, "y": "\\u00e9"}, {}], "last": 7}')
    for length in (1, 2, 3, 7):  # every number and word is split somewhere
        monkeypatch.setattr(data, "_JSON_CHUNK", length)
        items = [item for *_, item in data._json_items(small, ("videos",))]
        assert items == [{"x": -1250.0, "y": "\u00e9"}, {}]


# --- IMU -----------------------------------------------------------------------------------------


def made_imu(seconds=10.0, drop=()):
    """Ramps at uneven stamps, without the stretches ``drop``."""
    rng = np.random.default_rng(0)
    stamps = []
    for rate in (200, 400):
        times = np.arange(0, seconds, 1 / rate)
        times[1:] += rng.uniform(-0.3, 0.3, len(times) - 1) / rate
        for start, stop in drop:
            times = times[(times < start) | (times > stop)]
        stamps.append(times)
    return data.Imu(stamps[0], ramp(stamps[0], 1, 9.8), stamps[1], ramp(stamps[1], -3))


def test_window_is_linear_interpolation_at_real_stamps():
    window = made_imu().window(3.217)
    grid = 3.217 + np.arange(422) / 198
    assert window.shape == (422, 6) and window.dtype == np.float32
    np.testing.assert_allclose(window[:, :3], ramp(grid, 1, 9.8), atol=1e-5)
    np.testing.assert_allclose(window[:, 3:], ramp(grid, -3), atol=1e-5)
    other = made_imu().window(1.0, samples=50, rate=25)
    np.testing.assert_allclose(other[:, 0], 1 + np.arange(50) / 25 + 9.8, atol=1e-5)


def test_window_refuses_what_the_imu_does_not_cover():
    gap = made_imu(drop=[(4.0, 4.5)])
    with pytest.raises(data.CoverageError, match=r"accelerometer covers 76.* 3\.99\d to 4\.500 s"):
        gap.window(3.0)
    assert np.isfinite(gap.window(3.0, min_coverage=0.7)).all()
    assert np.isfinite(gap.window(3.0, max_gap=1.0)).all()
    assert np.isfinite(made_imu(drop=[(4.0, 4.09)]).window(3.0)).all()  # under 5 %
    gap.window(1.8), gap.window(4.51)  # windows beside the gap are whole
    for start in (-1.0, 8.0, 12.0, -50.0):  # over an end of the recording, and far outside
        with pytest.raises(data.CoverageError, match=r"no samples from"):
            gap.window(start)
    gyro_gap = made_imu()
    keep = (gyro_gap.gyro_time < 4) | (gyro_gap.gyro_time > 4.5)
    gyro_gap.gyro_time, gyro_gap.gyro = gyro_gap.gyro_time[keep], gyro_gap.gyro[keep]
    with pytest.raises(data.CoverageError, match="gyroscope covers"):
        gyro_gap.window(3.0)


def test_coverage_mask_and_another_clock():
    imu = made_imu(drop=[(4.0, 4.5)])
    times = np.arange(0, 9, 0.1)
    mask = imu.covers(times)
    expected = (times < 4.0) | (times > 4.5)
    assert mask.shape == (90, 2)
    np.testing.assert_array_equal(mask[:, 0], expected)
    np.testing.assert_array_equal(mask[:, 1], expected)
    assert imu.covers(times, max_gap=1.0).all() and not imu.covers(np.array([-1.0, 11.0])).any()
    moved = imu.on_clock(0.3, 1.02)  # a sample stamped t was taken at 0.3 + 1.02 t
    np.testing.assert_allclose(moved.window(6.0), imu.window((6.0 - 0.3) / 1.02, rate=198 * 1.02), atol=1e-5)
    assert imu.on_clock() is imu


def test_what_is_odd_about_an_imu_file_is_noted(tmp_path):
    header = ("canonical_timestamp_ms", "gyro_x", "gyro_y", "gyro_z", "accl_x", "accl_y", "accl_z")
    rows = [(10 * i, 1, 2, 3, i, i + 1, i + 1) for i in range(100)]
    rows += [(30, 1, 2, 3, 4, 5, 5), (1e9, 1, 2, 3, 4, 5, 5), (-1500, 1, 2, 3, 4, 5, 5), (999, 1, 2, 3, "", "", "")]
    path = write_table(tmp_path / "e.csv", header, rows)
    imu = data.read_imu(path)
    assert len(imu.accel) == 101 and len(imu.gyro) == 102 and imu.accel_time[0] == -1.5
    inside = imu.inside(1.0)
    assert len(inside.accel) == 100 and inside.accel_time[0] == 0
    assert inside.notes == (*imu.notes, "1 samples lie over a second outside the video")
    assert imu.inside(2.0).gyro_time[-1] == pytest.approx(0.999) and imu.on_clock(0.6).inside(1.0).notes == imu.notes
    notes = "; ".join(imu.notes)
    for words in (
        "1 of 104 rows have no usable time",
        "not in the order",
        "1 accelerometer samples repeat",
        "1 of 104 rows have no accelerometer",
        "the accelerometer's Y and Z are the same",
    ):
        assert words in notes
    assert (
        data.read_imu(write_table(tmp_path / "g.csv", header, [(10 * i, 1, 2, 3, i, 2 * i, 0) for i in range(9)])).notes
        == ()
    )


def test_missing_accelerometer_is_zero_on_request_only(tmp_path):
    header = ("canonical_timestamp_ms", "gyro_x", "gyro_y", "gyro_z", "accl_x", "accl_y", "accl_z")
    path = write_table(tmp_path / "e.csv", header, [(5 * i, i, 2, 3, "", "", "") for i in range(1000)])
    with pytest.raises(data.DataError, match=r"0 usable accelerometer samples in 1000 rows \(zero_accel"):
        data.read_imu(path)
    imu = data.read_imu(path, zero_accel=True)
    window = imu.window(1.0)
    assert not window[:, :3].any() and window[0, 3] == pytest.approx(200)
    assert "there is no accelerometer; it is set to zero" in imu.notes


def test_epic_pair_is_sorted_and_cleaned(tmp_path):
    accel = tmp_path / "a.csv"
    accel.write_text(
        "\ufeffMilliseconds,AcclX,AcclY,AcclZ\r\n10,3,0,0\r\n-5,1,0,0\r\n0,2,0,0\r\n10,9,9,9\r\n"
        "15,nan,0,0\r\n20,,0,0\r\nNULL,7,7,7\r\n1e15,8,8,8\r\n25,5,6,7\r\n"
    )
    gyro = write_table(
        tmp_path / "g.csv", ("Milliseconds", "GyroX", "GyroY", "GyroZ"), [(0, 0.1, 0.2, 0.3), (4, 0.4, 0.5, 0.6)]
    )
    imu = data.read_imu((accel, gyro))
    np.testing.assert_allclose(imu.accel_time, [-0.005, 0, 0.010, 0.025])
    np.testing.assert_allclose(imu.accel, [[1, 0, 0], [2, 0, 0], [3, 0, 0], [5, 6, 7]])
    np.testing.assert_allclose(imu.gyro_time, [0, 0.004])
    np.testing.assert_allclose(imu.gyro, [[0.1, 0.2, 0.3], [0.4, 0.5, 0.6]])


def test_single_csv_in_ego4d_and_plain_columns(tmp_path):
    header = (
        "component_idx",
        "component_timestamp_ms",
        "canonical_timestamp_ms",
        "gyro_x",
        "gyro_y",
        "gyro_z",
        "accl_x",
        "accl_y",
        "accl_z",
    )
    rows = [
        (0, 0, 100, 1, 2, 3, 4, 5, 6),
        (0, 5, 105, 1, 2, 3, "", "", ""),
        (1, 5, "", *[9] * 6),
        (1, 0, 110, 7, 8, 9, 10, 11, 12),
    ]
    imu = data.read_imu(write_table(tmp_path / "e.csv", header, rows))
    np.testing.assert_allclose(imu.accel_time, [0.1, 0.11])
    np.testing.assert_allclose(imu.accel, [[4, 5, 6], [10, 11, 12]])
    np.testing.assert_allclose(imu.gyro_time, [0.1, 0.105, 0.11])
    np.testing.assert_allclose(imu.gyro, [[1, 2, 3], [1, 2, 3], [7, 8, 9]])
    plain = write_table(
        tmp_path / "p.CSV",
        ("gz", "gy", "gx", "note", "time", "ax", "ay", "az"),
        [(6, 5, 4, "one", 0.5, 1, 2, 3), (6, 5, 4, "two", 0.6, 1, 2, 3)],
    )
    imu = data.read_imu(plain)
    np.testing.assert_allclose(imu.accel_time, [0.5, 0.6])
    np.testing.assert_allclose((imu.accel[0], imu.gyro[0]), [[1, 2, 3], [4, 5, 6]])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("t,ax,ay,az\n1,2,3,4\n", "no time column"),
        ("time,ax,ay,az\n1,2,3,4\n", "no gyroscope column gx, gy, gz"),
        ("time,ax,ay,az,gx,gy,gz\n", "no samples"),
        ("time,ax,ay,az,gx,gy,gz\n1,2,3,4,5,6,7\n2,2,x,4,5,6,7\n", "'x'.*row 1"),
        ("time,ax,ay,az,gx,gy,gz\n1,2,3,4,5,6,7\n2,2\n", "row"),
        ("time,ax,ay,az,gx,gy,gz\n1,,,,5,6,7\n2,,,,5,6,7\n", "0 usable accelerometer samples"),
        ("\x00\x01", "no time column"),
    ],
)
def test_imu_csv_errors_name_the_file(tmp_path, text, words):
    (tmp_path / "bad.csv").write_text(text)
    with pytest.raises(data.DataError, match=f"bad.csv: .*{words}"):
        data.read_imu(tmp_path / "bad.csv")


def test_real_gopro_video(sample):
    imu = data.read_imu(sample("gopro/max-heromode.mp4"))
    assert len(imu.accel) == len(imu.gyro) == 2082
    for stamps in (imu.accel_time, imu.gyro_time):
        rate = (len(stamps) - 1) / (stamps[-1] - stamps[0])
        assert rate == pytest.approx(197.48, abs=0.01) and stamps[0] == 0
    assert np.linalg.norm(imu.accel, axis=1).mean() == pytest.approx(9.835, abs=0.001)
    np.testing.assert_allclose(imu.accel.mean(0), [-0.06, 1.31, 9.70], atol=0.005)
    table = data.read_imu(sample("gopro-derived/walk_imu.csv"))  # written by other code
    for name in ("accel_time", "accel", "gyro_time", "gyro"):
        np.testing.assert_allclose(getattr(imu, name), getattr(table, name), atol=1e-6)
    aria = data.read_imu(sample("aria-everyday/imu-right.csv"))
    assert aria.accel_time[0] == pytest.approx(-0.0373, abs=1e-4) and len(aria.gyro) == 400
    assert np.linalg.norm(aria.accel, axis=1).mean() == pytest.approx(9.78, abs=0.01)


def test_video_without_telemetry_says_no_imu(steady, sample):
    for video in (steady, sample("gopro-derived/walk_vp9_30fps.mp4")):
        with pytest.raises(data.DataError, match="no IMU"):
            data.read_imu(video)


# --- Frames --------------------------------------------------------------------------------------


def expected_numbers(starts, times):
    """The rule itself: the last frame with time <= t, the first before the first frame."""
    return [max(np.searchsorted(starts, t + 1e-6, side="right") - 1, 0) for t in times]


def ask(starts, seed=0):
    """Times that catch a reader out: on the boundaries, beside them, in between, unsorted."""
    rng = np.random.default_rng(seed)
    end = starts[-1] + 0.02
    picked = rng.choice(starts, 12)
    times = np.concatenate(
        [
            picked,
            picked - 1e-4,
            picked + 1e-4,
            (starts[3:5] + starts[4:6]) / 2,
            rng.uniform(0, end, 12),
            [0, -1, starts[-1], end, starts[7], starts[7]],
        ]
    )
    return rng.permutation(times)


H265 = {"preset": "ultrafast", "x265_params": "keyint=20:crf=8:log-level=0"}
UNEVEN = np.cumsum(np.resize([0.0334, 0.0667, 0.0167, 0.5, 0.1001], 150)) - 0.0334
OPEN_GOP = X264 | {"x264_params": "open-gop=1:keyint=15:min-keyint=15:scenecut=0:bframes=3"}


@pytest.mark.parametrize(
    ("name", "starts", "codec", "options"),
    [
        ("bframes.mp4", STEADY, "libx264", X264),
        ("one_key.mp4", STEADY, "libx264", X264 | {"g": 1000}),
        ("open_gop.mp4", STEADY, "libx264", OPEN_GOP),
        ("uneven.mp4", np.round(UNEVEN * TICKS) / TICKS, "libx264", X264),
        ("late.mp4", STEADY + 0.7, "libx264", X264),
        ("h265.mp4", STEADY, "libx265", H265),
        ("vp9.webm", STEADY, "libvpx-vp9", {"g": 30, "deadline": "realtime", "crf": 5, "b": 0}),
        ("bframes.mkv", STEADY, "libx264", X264),
        ("mpeg4.avi", STEADY, "mpeg4", {"g": 12, "qscale": 1}),
        ("transport.ts", STEADY, "libx264", X264),
    ],
)
def test_frames_are_exact(tmp_path, name, starts, codec, options):
    video = write_video(tmp_path / name, starts, codec, **options)
    if name in ("late.mp4", "transport.ts"):  # a player's clock starts with the first frame
        starts = starts - starts[0]
    starts = np.round(starts, 3) if name.endswith(("webm", "mkv")) else starts
    for seed in range(4):
        times = ask(starts, seed)
        found = data.read_frames(video, times, threads=seed % 2)
        assert found.shape == (len(times), 3, HEIGHT, WIDTH) and found.dtype == np.uint8
        assert [number_of(p) for p in found] == expected_numbers(starts, times)
        few = np.sort(times)[[3, -8]]
        found = data.read_frames(video, few, 40)
        assert [number_of(p) for p in found] == expected_numbers(starts, few)


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "avi"])
def test_metadata_that_are_not_utf8_do_not_hide_a_video(suffix, tmp_path):
    """Old PyAV raises for them unless told not to, and PyAV 19 has no way to tell it so."""
    titles = {"title": "A TITLE ..", "handler_name": "HANDLER.."}
    video = write_video(tmp_path / f"latin.{suffix}", STEADY[:30], codec="mpeg4", metadata=titles)
    with_latin1(video, "A TITLE ..", "Caf\xe9 na\xefve")
    if suffix == "mp4":
        with_latin1(video, "HANDLER..", "Cam\xe9ra \xb51")
    assert data.probe(video).duration == pytest.approx(1.2, abs=0.05)
    assert [number_of(p) for p in data.read_frames(video, STEADY[:30:7])] == list(range(0, 30, 7))
    copy = tmp_path / "copy.mp4"
    recordings.transcode(video, copy)
    assert [number_of(p) for p in data.read_frames(copy, STEADY[:30:7])] == list(range(0, 30, 7))


@pytest.fixture
def decoded(monkeypatch):
    """The times of all frames that come out of the decoder, wanted or not."""
    seen = []
    decode = data._FrameReader._decode

    def counted(self, packet):
        before = set(self.decoded)
        decode(self, packet)
        seen.extend(set(self.decoded) - before)

    monkeypatch.setattr(data._FrameReader, "_decode", counted)
    return seen


def test_reader_skips_ahead_but_decodes_nothing_twice(steady, decoded):
    data.read_frames(steady, [5.7], threads=1)  # frame 142; the key frame before it is 112
    assert len(decoded) < 20  # nothing refers to some twelve of the 31
    decoded.clear()
    data.read_frames(steady, [0.1, 5.0], threads=1)  # frames 2 and 125
    assert len(decoded) < 14
    decoded.clear()
    data.read_frames(steady, STEADY, threads=1)
    assert len(decoded) == len(set(decoded)) == 150


def test_first_key_frame_after_the_wanted_time_is_not_taken(tmp_path):
    """With B-frames a key frame is decoded before frames that are shown before it."""
    video = write_video(tmp_path / "a.mp4", STEADY, **OPEN_GOP)
    for i in range(1, 150):
        assert number_of(data.read_frames(video, [STEADY[i]])[0]) == i


def test_size_crop_and_colour(tmp_path):
    picture = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    picture[:, :16], picture[:, 16:64], picture[:, 64:] = (255, 0, 0), (0, 255, 0), (0, 0, 255)
    video = write_video(tmp_path / "a.mp4", [0, 0.04], pictures=[picture] * 2, crf=1)
    whole = data.read_frames(video, [0])[0]
    assert whole[0, 24, 4] > 200 and whole[2, 24, 4] < 60  # red is the first channel, on the left
    assert whole[2, 24, 76] > 200 and whole[0, 24, 76] < 60
    squeezed = data.read_frames(video, [0], 40)[0]
    assert squeezed.shape == (3, 40, 40)
    assert squeezed[0, 20, 2] > 200 and squeezed[2, 20, 37] > 200
    cropped = data.read_frames(video, [0], 24, crop=True)[0]  # exactly the green middle
    assert cropped.shape == (3, 24, 24) and cropped[1, :, 1:-1].min() > 200
    assert data.read_frames(video, [0], 96)[0].shape == (3, 96, 96)


def test_last_frame_stands_a_moment_longer(steady):
    assert number_of(data.read_frames(steady, [5.96 + 0.04 + 0.09])[0]) == 149
    with pytest.raises(data.VideoError, match=r"steady.mp4: no frame at 6.200 s"):
        data.read_frames(steady, [0, 6.2])
    with pytest.raises(data.DataError, match=r"steady.mp4: not every time"):
        data.read_frames(steady, [0, np.nan])
    found = list(data.frames_at(steady, [6.2, 1.0, 0.0]))
    assert [index for index, _ in found] == [2, 1, 0] and found[-1][1] is None


def test_videos_that_cannot_be_read(steady, tmp_path):
    content = Path(steady).read_bytes()
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "noindex.mp4").write_bytes(content[: content.rindex(b"moov") - 4])
    (tmp_path / "text.mp4").write_text("hello")
    with wave.open(str(tmp_path / "audio.wav"), "wb") as audio:
        audio.setparams((1, 2, 8000, 0, "NONE", ""))
        audio.writeframes(b"\0\0" * 8000)
    cases = {
        "gone.mp4": "no such file",
        ".": "is a folder",
        "empty.mp4": "0 bytes",
        "noindex.mp4": "cannot be opened.*index",
        "text.mp4": "cannot be opened",
        "audio.wav": "no video stream",
    }
    for name, words in cases.items():
        for call in (lambda path: data.read_frames(path, [0]), data.probe):
            with pytest.raises(data.VideoError, match=words) as caught:
                call(tmp_path / name)
            assert str(tmp_path / name) in str(caught.value)


def break_packets(video, path, numbers):
    """A copy of a video with the bytes of some packets overwritten."""
    content = bytearray(Path(video).read_bytes())
    with av.open(str(video)) as container:
        for i, packet in enumerate(container.demux(video=0)):
            if i in numbers:
                content[packet.pos : packet.pos + packet.size] = b"\xff" * packet.size
    Path(path).write_bytes(content)
    return str(path)


def test_broken_packets_cost_no_other_frames_and_hide_none(tmp_path):
    video = write_video(tmp_path / "a.mp4", STEADY, bf=0, g=1, crf=10)  # every frame a key frame
    one = break_packets(video, tmp_path / "one.mp4", {50})
    found = [number_of(p) for p in data.read_frames(one, STEADY[[0, 49, 51, 149]])]
    assert found == [0, 49, 51, 149]
    many = break_packets(video, tmp_path / "many.mp4", set(range(50, 80)))
    assert number_of(data.read_frames(many, [STEADY[80]])[0]) == 80
    times = [0.0, STEADY[65], STEADY[100]]
    lost = [frame is None for _, frame in data.frames_at(many, times)]
    assert lost == [False, True, False]
    with pytest.raises(data.VideoError, match=r"many.mp4: no frame at 2.600 s"):
        data.read_frames(many, times)
    tail = break_packets(video, tmp_path / "tail.mp4", set(range(140, 150)))
    with pytest.raises(data.VideoError, match=r"tail.mp4: no frame at 5.960 s"):
        data.read_frames(tail, [STEADY[149]])


TEMPORAL_LAYERS = {"preset": "ultrafast", "x265_params": "keyint=40:bframes=3:temporal-layers=3:log-level=0"}


@pytest.mark.parametrize(
    ("name", "codec", "options", "skips"),
    [
        ("a.mp4", "libx264", X264, True),
        ("a.mkv", "libx264", X264, True),
        ("a.mp4", "libx265", H265, True),
        ("a.mp4", "libx265", TEMPORAL_LAYERS, False),
        ("a.mp4", "mpeg4", {"bf": 2, "g": 20}, False),
    ],
)
def test_frames_left_out_change_no_pixel(tmp_path, decoded, name, codec, options, skips):
    """In H.265 a frame of a lower temporal layer that its own layer does without may serve a higher one."""
    rng = np.random.default_rng(0)
    ground = rng.integers(0, 256, (HEIGHT + 64, WIDTH + 64, 3), np.uint8)
    pictures = [ground[i % 64 :, i // 2 % 64 :][:HEIGHT, :WIDTH] for i in range(100)]
    video = write_video(tmp_path / name, STEADY[:100], codec, pictures=pictures, **options)
    with av.open(video) as container:
        everything = sorted(container.decode(video=0), key=lambda frame: frame.pts)
        everything = [frame.to_ndarray(format="rgb24").transpose(2, 0, 1) for frame in everything]
    for k in range(0, 100, 7):
        found = data.read_frames(video, [STEADY[k] + 0.02], threads=1)[0]
        np.testing.assert_array_equal(found, everything[k])
    single = len(decoded)
    decoded.clear()
    found = data.read_frames(video, STEADY[:100:7] + 0.02, threads=1)
    np.testing.assert_array_equal(found, everything[::7])
    assert (len(decoded) < 85) == skips and single >= len(decoded)


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.ts"])
def test_a_video_with_one_key_frame_is_decoded_once(tmp_path, decoded, name):
    video = write_video(tmp_path / name, np.arange(120) / 4, bf=0, x264_params="keyint=1000:scenecut=0")
    found = data.read_frames(video, [0, 11, 22, 29], threads=1)
    assert [number_of(p) for p in found] == [0, 44, 88, 116]
    assert len(decoded) < 125  # 117 and one start over, after which the reader knows
    with av.open(video) as container:
        packets = list(container.demux(video=0))
    assert sum(packet.is_keyframe for packet in packets) == 1


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.ts", "fragments.mp4"])
@pytest.mark.parametrize("bframes", [0, 3])
def test_nearest_key_frame(tmp_path, decoded, name, bframes):
    options = X264 | {"bf": bframes, "x264_params": "keyint=20:min-keyint=20:scenecut=0"}
    options |= {"container": {"movflags": "frag_keyframe+empty_moov"}} if name == "fragments.mp4" else {}
    video = write_video(tmp_path / name, STEADY, **options)
    keys = np.arange(0, 150, 20)
    times = np.random.default_rng(0).permutation([*np.arange(0.003, 6, 0.07), 0.4, -1, 9])  # 0.4: a tie
    nearest = [int(keys[np.abs(STEADY[keys] - max(t, 0)).argmin()]) for t in times]
    for threads in (1, 4):
        decoded.clear()
        found = data.read_frames(video, times, exact=False, threads=threads)
        assert [number_of(p) for p in found] == nearest
        assert len(keys) == len(set(decoded)) <= len(decoded) <= len(keys) + threads - 1
    decoded.clear()
    assert number_of(data.read_frames(video, [3.7], exact=False, threads=1)[0]) == 100 and len(decoded) == 1


def test_threads_share_the_recording_out_and_change_nothing(steady, decoded):
    times = np.random.default_rng(0).permutation(np.repeat(STEADY[::2], 2))
    expected = data.read_frames(steady, times, threads=1)
    alone = len(decoded)
    with data._open_video(steady) as container:
        parts = data._FrameReader(container, steady).parts(times, 3)
    assert len(parts) == 3 and sorted(np.concatenate(parts)) == list(range(len(times)))
    assert min(map(len, parts)) > len(times) / 5
    for threads in (0, 2, 3, 64):
        decoded.clear()
        np.testing.assert_array_equal(data.read_frames(steady, times, threads=threads), expected)
        assert len(decoded) < alone + 32  # no part decodes what belongs to another one
    with pytest.raises(data.VideoError, match=r"steady.mp4: no frame at 9.000 s"):
        data.read_frames(steady, [0, 2, 4, 9], threads=3)


def test_memory_stays_flat(steady):
    """A frame of this video is 6 kB, its decoder some hundred: ten kept of a hundred calls would show."""
    statm = Path("/proc/self/statm")
    if not statm.exists():
        pytest.skip("reads the memory in use from /proc")
    if int(av.__version__.split(".")[0]) < 18:
        pytest.skip("PyAV 17 keeps some memory of each decoder, in a bare loop too")

    def in_use(calls):
        for i in range(calls):
            data.read_frames(steady, [i % 60 / 10, 5.5], 32, threads=1 + i % 2)
            data.read_frames(steady, [i % 60 / 10], exact=False, threads=1)
            next(data.frames_at(steady, [0, 5], threads=1))
        return int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    before = in_use(60)
    assert in_use(200) - before < 4e6


def test_containers_are_closed(steady):
    before = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
    for _ in range(20):
        data.read_frames(steady, [0])
        data.probe(steady)
        with pytest.raises(data.VideoError):
            data.read_frames(steady, [99])
        next(data.frames_at(steady, [0, 1])), next(data.frames_at(steady, [0, 1]))
    after = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
    assert after <= before + 1


CLIPS = {  # frames, width, height as shown, seconds
    "decoder-clips/nasa_13013_bframes_multistream.mp4": (325, 320, 180, 13.0),
    "decoder-clips/h264_bt709_full_range.mp4": (30, 1280, 720, 1.0),
    "decoder-clips/h265_128x128.mp4": (10, 128, 128, 1.0),
    "decoder-clips/h265_10bit.mp4": (30, 200, 200, 1.0),
    "decoder-clips/av1_640x360.mkv": (125, 640, 360, 5.0),
    "decoder-clips/rotate_90.mov": (3, 320, 568, 0.1),
    "decoder-clips/rotate_180.mov": (3, 568, 320, 0.1),
    "decoder-clips/unordered_4frames.mov": (4, 50, 50, 0.125),
    "decoder-clips/vfr_h265_nonmonotonic.mp4": (146, 1376, 1840, 5.005),
    "decoder-clips/corrupted.mp4": (49, 1280, 720, 5.0),
    "gopro/max-heromode.mp4": (315, 848, 480, 10.5105),
    "gopro-derived/walk_vp9_30fps.mp4": (315, 424, 240, 10.5),
    "aria-everyday/rgb.mp4": (8, 704, 704, 0.399),
}


@pytest.mark.parametrize("name", CLIPS)
def test_real_clips_give_the_frames_of_a_full_decode(sample, name):
    count, width, height, seconds = CLIPS[name]
    video, everything = sample(name), []
    threads = 1 if "corrupted" in name else 0  # what is made up for lost data depends on threads
    with av.open(video) as container:  # the simple, slow way
        container.streams.video[0].codec_context.thread_count = threads
        for packet in container.demux(video=0):
            try:
                everything += [(f.time, f) for f in packet.decode()]
            except av.error.InvalidDataError:
                assert "corrupted" in name
        everything.sort(key=lambda item: item[0])
        assert len(everything) == count
        starts = np.array([start for start, _ in everything])
        times = np.array([seconds, starts[-1], *starts[:8], *np.linspace(0, seconds, 5)])
        numbers = expected_numbers(starts, times)
        wanted = {}
        for n in set(numbers):
            picture = everything[n][1].to_ndarray(format="rgb24")
            wanted[n] = np.rot90(picture, everything[n][1].rotation // 90)
    assert data.probe(video).duration == pytest.approx(seconds, abs=1e-6)
    found = data.read_frames(video, times, threads=threads)
    assert found.shape == (len(times), 3, height, width)
    for picture, n in zip(found, numbers, strict=True):
        np.testing.assert_array_equal(picture.transpose(1, 2, 0), wanted[n])


# --- Clips ---------------------------------------------------------------------------------------

CLIP = 64 / 30


# --- Sound ---------------------------------------------------------------------------------------


def write_sound(path, samples, rate, *, codec="aac", delay=0.0, channels=1, drop=(), pictures=5):
    """A short video with these samples as its sound, which begins at ``delay`` seconds."""
    with av.open(str(path), "w") as container:
        picture = container.add_stream("libx264", rate=30)
        picture.width = picture.height = 32
        picture.pix_fmt = "yuv420p"
        stream = container.add_stream(codec, rate=rate, layout="mono" if channels == 1 else "stereo")
        for i in range(pictures):
            frame = av.VideoFrame.from_ndarray(np.full((32, 32, 3), i, np.uint8), "rgb24")
            frame.pts, frame.time_base = i, Fraction(1, 30)
            container.mux(picture.encode(frame))
        container.mux(picture.encode())
        for at in range(0, len(samples) - 1023, 1024):
            if any(start <= at / rate < stop for start, stop in drop):
                continue
            block = np.repeat(samples[None, at : at + 1024], channels, 0).astype(np.float32)
            frame = av.AudioFrame.from_ndarray(block, "fltp", "mono" if channels == 1 else "stereo")
            frame.sample_rate, frame.time_base, frame.pts = rate, Fraction(1, rate), at + round(delay * rate)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return str(path)


def chirp(times):
    return 0.5 * np.sin(2 * np.pi * (200 * times + 30 * times**2))


@pytest.mark.parametrize(("rate", "channels", "delay"), [(48000, 2, 0.0), (44100, 1, 0.5), (16000, 1, 0.0)])
def test_sound_is_where_the_player_has_it(tmp_path, rate, channels, delay):
    times = np.arange(12 * rate) / rate
    video = write_sound(tmp_path / "a.mp4", chirp(times), rate, channels=channels, delay=delay)
    starts = [8.2, 1.0, 1.3]  # not in order, one after a long way
    heard = data.read_audio(video, starts)
    assert heard.shape == (3, 32000) and heard.dtype == np.float32
    for start, sound in zip(starts, heard, strict=True):
        expected = chirp(start - delay + np.arange(32000) / 16000)
        lags = range(-40, 41)
        fit = [np.corrcoef(sound[500:-500], expected[500 + k : 31500 + k])[0, 1] for k in lags]
        # An MP4 tells the start of a late track in milliseconds: 16 samples.
        assert max(fit) > 0.98 and abs(lags[int(np.argmax(fit))]) <= (16 if delay else 1)


def test_missing_sound_is_said(tmp_path, steady):
    rate = 16000
    video = write_sound(tmp_path / "a.mkv", chirp(np.arange(9 * rate) / rate), rate, codec="flac", drop=[(3, 4)])
    np.testing.assert_allclose(data.read_audio(video, [6.0])[0], chirp(6 + np.arange(32000) / rate), atol=1e-3)
    for start in (2.0, 8.0):
        with pytest.raises(data.VideoError, match=f"a.mkv: sound is missing near {start:.3f} s"):
            data.read_audio(video, [start])
    with pytest.raises(data.VideoError, match=r"steady.mp4: has no audio"):
        data.read_audio(steady, [0])


def test_log_mel_hears_a_tone_in_its_band():
    assert data.log_mel(np.zeros(32000, np.float32)).shape == (201, 40)
    assert data.log_mel(np.zeros((2, 3, 32000))).max() == pytest.approx(math.log(1e-6))
    times = np.arange(32000) / 16000
    centres = 700 * (10 ** (np.arange(1, 41) * 2595 * np.log10(1 + 8000 / 700) / 41 / 2595) - 1)
    for band in (5, 20, 38):
        bands = data.log_mel(np.sin(2 * np.pi * centres[band] * times))
        assert bands[3:-3].mean(0).argmax() == band and bands.dtype == np.float32
    # Power: twice the sound is four times the energy, and a Hann window of 400 has the gain 200.
    loud, soft = (data.log_mel(a * np.sin(2 * np.pi * 1000 * times))[100].max() for a in (2, 1))
    assert loud - soft == pytest.approx(math.log(4), abs=1e-3)
    assert 0.5 * 1e4 < np.exp(soft) < 1e4


def test_clip_starts_closed_form():
    assert data.clip_starts(2, 2 + 3 * CLIP, 100) == pytest.approx([2, 2 + CLIP, 2 + 2 * CLIP])
    assert data.clip_starts(10, 15, 100, 2) == pytest.approx([10, 11.5, 13])
    assert data.clip_starts(0, 1, 100, 2) == [0]  # centred at 0.5, moved inside
    assert data.clip_starts(99, 100, 100, 2) == [98]
    assert data.clip_starts(98.5, 200, 100, 1) == pytest.approx([98.5, 99])
    assert data.clip_starts(0.2, 0.9, 1.0) == [0]  # the video is shorter than a clip
    rng = np.random.default_rng(0)
    for centre, half in zip(rng.uniform(5, 95, 200), rng.uniform(0.01, CLIP / 2, 200), strict=True):
        (start,) = data.clip_starts(centre - half, centre + half, 100)
        assert abs(start + CLIP / 2 - centre) < 1e-9
    for start, length in zip(rng.uniform(0, 50, 200), rng.uniform(0.1, 30, 200), strict=True):
        starts = data.clip_starts(start, start + length, 100)
        assert len(starts) == max(1, math.ceil(length / CLIP))
        if len(starts) > 1:  # covers the segment from end to end, evenly, without holes
            assert starts[0] == pytest.approx(start) and starts[-1] + CLIP == pytest.approx(start + length)
            assert np.ptp(np.diff(starts)) < 1e-9 and np.diff(starts).max() <= CLIP + 1e-9


@pytest.mark.parametrize("bad", [(1, 1, 9), (2, 1, 9), (-1, 1, 9), (9, 10, 9), (0, math.inf, 9)])
def test_clip_starts_refuses_nonsense(bad):
    with pytest.raises(data.DataError):
        data.clip_starts(*bad)


def test_clip_times_are_centres_of_equal_parts():
    assert data.clip_times(3, 1, 2).tolist() == [4]
    np.testing.assert_allclose(data.clip_times(3, 4, 2), [3.25, 3.75, 4.25, 4.75])


def test_clip_times_of_the_other_rules():
    step = 2.0 / 60
    first = data.clip_times(3, 4, 2, sampling="first")
    np.testing.assert_allclose(first, 3 + (np.arange(4) + 0.5) * step)
    np.testing.assert_allclose(data.clip_times(3, 4, 2, sampling="last"), 5 - (np.arange(4)[::-1] + 0.5) * step)
    centre = data.clip_times(3, 4, 2, sampling="centre")
    assert centre.mean() == pytest.approx(4) and np.diff(centre) == pytest.approx([step] * 3)
    drawn = [data.clip_times(3, 4, 2, sampling="random", rng=np.random.default_rng(k)) for k in (0, 0, 1)]
    assert (drawn[0] == drawn[1]).all() and (drawn[0] != drawn[2]).any()
    for times in drawn:
        assert (np.diff(times) > step / 2).all() and 3 < times[0] and times[-1] < 5
        np.testing.assert_allclose(times % step, (3 + step / 2) % step, atol=1e-9)
    with pytest.raises(data.DataError, match="'middle'"):
        data.clip_times(3, 4, sampling="middle")
    with pytest.raises(data.DataError, match="65 of 64 frames by 'first'"):
        data.clip_times(3, 65, sampling="first")


# --- The store -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def kitchen(tmp_path_factory):
    """Three recordings of 6 s with IMU, painted frame numbers, and nine segments in them."""
    folder = tmp_path_factory.mktemp("kitchen")
    segments = []
    for v, name in enumerate(("P01_101", "P02_102", "P30_103")):
        video = write_video(folder / f"{name}.MP4", STEADY, **X264)
        imu = write_epic_imu(folder, name, 7, slope=v + 1)
        split = "test" if v == 2 else "train"
        for k, (start, stop) in enumerate([(0.5, 1.0), (1.0, 4.0), (4.5, 6.0)]):
            label = ("wash", "cut", None if v == 0 else "take")[k]
            segments.append(data.Segment(f"{name}_{k}", video, start, stop, label, imu, split))
    return segments


OPTIONS = {"num_frames": (1, 4), "frame_size": 40, "clip_frames": 3, "clip_size": 24, "progress": False, "workers": 1}


@pytest.fixture(scope="module")
def store(kitchen, tmp_path_factory):
    return data.prepare(kitchen, tmp_path_factory.mktemp("store") / "s", **OPTIONS)


def arrays_of(path):
    return {file.name: file.read_bytes() for file in sorted(Path(path).glob("*.npy"))}


def test_prepared_store_holds_what_was_painted(store, kitchen):
    assert len(store) == 12  # the middle segments are longer than a clip
    assert store.names == ["frames_1", "frames_4", "ends", "clip", "imu"]
    assert store.class_names == ["cut", "take", "wash"] and store.splits == ["test", "train"]
    assert store.settings["frame_size"] == 40 and store.settings["num_frames"] == [1, 4]
    assert store.segments.tolist() == [0, 1, 1, 2, 3, 4, 4, 5, 6, 7, 7, 8]
    assert store.labels.tolist() == [2, 0, 0, -1, 2, 0, 0, 1, 2, 0, 0, 1]
    assert store.labels.dtype == store.segments.dtype == np.int64
    everything = {name: store.read(name, np.arange(12)) for name in store.names}
    assert everything["frames_4"].shape == (12, 4, 3, 40, 40)
    assert everything["clip"].shape == (12, 3, 3, 24, 24)
    assert everything["imu"].shape == (12, 422, 6) and everything["imu"].dtype == np.float32
    for row, clip in enumerate(store.clips):
        segment = kitchen[store.segments[row]]
        assert (clip["id"], clip["video"], clip["label"]) == (segment.id, segment.video, segment.label)
        assert (clip["split"], clip["status"]) == (segment.split, "ok")
        start = clip["start"]
        assert clip["stop"] - start == pytest.approx(CLIP)
        times = {
            "frames_1": [start + CLIP / 2],
            "ends": [start, start + CLIP],
            "frames_4": [start + (i + 0.5) / 4 * CLIP for i in range(4)],
        }
        for name, wanted in times.items():
            numbers = [number_of(picture) for picture in everything[name][row]]
            assert numbers == expected_numbers(STEADY, wanted)
        clip_times = [start + (i + 0.5) / 3 * CLIP for i in range(3)]
        frames = data.read_frames(segment.video, clip_times, 24, crop=True, threads=1)
        np.testing.assert_array_equal(everything["clip"][row], frames)
        slope = (kitchen.index(segment) // 3) + 1
        grid = start + np.arange(422) / 198
        np.testing.assert_allclose(everything["imu"][row, :, :3], ramp(grid, slope, 9.8), atol=1e-4)
        np.testing.assert_allclose(everything["imu"][row, :, 3:], ramp(grid, -slope), atol=1e-4)


def test_header_lists_every_array_and_numpy_maps_them(store):
    header = json.loads((store.path / "store.json").read_text())
    for entry in header["arrays"].values():
        array = np.load(store.path / entry["file"], mmap_mode="r", allow_pickle=False)
        assert array.dtype == entry["dtype"] and list(array.shape) == entry["shape"]
    assert {e["file"] for e in header["arrays"].values()} == {f.name for f in store.path.glob("*.npy")}
    assert not list(store.path.glob("*.partial"))
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
    with pytest.raises(data.DataError, match=r"'val'.*test.*train"):
        store.split("val")
    with pytest.raises(data.DataError, match=r"no array 'depth'.*frames_1"):
        store.read("depth", [0])
    with pytest.raises(IndexError):
        test.read("imu", [4])
    twin = pickle.loads(pickle.dumps(test))
    np.testing.assert_array_equal(twin.read("imu", [1]), test.read("imu", [1]))


def test_workers_change_nothing(store, kitchen, tmp_path):
    other = data.prepare(kitchen, tmp_path / "s", **OPTIONS | {"workers": 2})
    assert arrays_of(other.path) == arrays_of(store.path)


def test_machines_share_the_work_without_knowing_each_other(store, kitchen, tmp_path, monkeypatch):
    """Each reads its own recordings; all together, also begun at once, give what one gives."""
    alone = tmp_path / "alone"
    for rank in (1, 0, 2):  # three recordings of four clips
        part = data.prepare(kitchen, alone, **OPTIONS, rank=rank, world_size=3)
        written = np.flatnonzero(np.load(alone / "status.npy"))
        assert {4 * rank, 4 * rank + 3} <= set(written.tolist())
        assert sum(n["ok"] for n in part.counts.values()) == len(written) == len(part)
        assert part.counts["test"]["missing"] == (0 if rank == 2 else 4)
    assert arrays_of(alone) == arrays_of(store.path) and len(part) == 12

    monkeypatch.setenv("WORLD_SIZE", "2")
    fields = ("id", "video", "start", "stop", "label", "imu", "split")
    plain = [tuple(getattr(s, f) for f in fields) for s in kitchen]
    (tmp_path / "given").write_bytes(pickle.dumps((plain, OPTIONS)))
    command = [sys.executable, "-c", KILLED, str(Path(data.__file__).parent), tmp_path / "given", tmp_path / "both"]
    scripts = [subprocess.Popen(command, env=os.environ | {"RANK": str(rank)}) for rank in (0, 1)]
    assert [script.wait(60) for script in scripts] == [0, 0]
    assert arrays_of(tmp_path / "both") == arrays_of(store.path)
    with pytest.raises(data.DataError, match="rank 2 is not one of the 2"):
        data.prepare(kitchen, alone, **OPTIONS, rank=2)


def test_a_store_is_laid_out_by_one_at_a_time(kitchen, tmp_path):
    path = tmp_path / "s"
    path.mkdir()
    with data._one_at_a_time(path):
        other = threading.Thread(target=data.prepare, args=(kitchen, path), kwargs=OPTIONS)
        other.start()
        other.join(0.5)
        assert other.is_alive() and not (path / "store.json").exists()
    other.join(60)
    assert len(data.ClipStore(path)) == 12


def test_two_writers_of_the_same_rows_give_what_one_gives(store, kitchen, tmp_path):
    """The same command twice at a time, with the same rank: nobody's rows are spoilt."""
    fields = [dataclasses.astuple(segment) for segment in kitchen]
    (tmp_path / "given").write_bytes(pickle.dumps((fields, OPTIONS)))
    command = [sys.executable, "-c", KILLED, str(Path(data.__file__).parent), tmp_path / "given", tmp_path / "s"]
    scripts = [subprocess.Popen(command) for _ in range(2)]
    assert [script.wait(60) for script in scripts] == [0, 0]
    assert arrays_of(tmp_path / "s") == arrays_of(store.path)
    # One of them can read a clip no longer (its machine lost the disk) that the other has finished.
    broken = data.ClipStore(tmp_path / "s")
    data._fail(broken, 5, "no such file")
    assert len(data.ClipStore(tmp_path / "s")) == 12 and not broken.failures


def test_failed_clips_are_tried_again_by_whose_they_are(kitchen, tmp_path, monkeypatch):
    broken = [replace(s, video=str(tmp_path / "no.mp4")) if "P30" in s.id or "P01" in s.id else s for s in kitchen]
    with pytest.raises(data.DataError, match="max_bad"):
        data.prepare(broken, tmp_path / "s", **OPTIONS)
    tried = []
    monkeypatch.setattr(data, "_fill", lambda store, rows: iter(tried.append(rows) or ()))
    with pytest.warns(UserWarning, match="could not be prepared"):
        data.prepare(broken, tmp_path / "s", **OPTIONS, retry_failed=True, max_bad=1.0, rank=0, world_size=3)
    status = np.load(tmp_path / "s" / "status.npy")
    assert tried == [[0, 1, 2, 3]] and status.tolist() == 4 * [0] + 4 * [1] + 4 * [2]


def test_workers_need_no_main_guard(kitchen, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(f"""import pickle, sys
sys.path.insert(0, {str(Path(data.__file__).parent)!r})
import data
segments = [data.Segment(*fields) for fields in pickle.load(open(sys.argv[1], "rb"))]
store = data.prepare(segments, sys.argv[2], workers=2, frame_size=16)
print(len(store), "torch" in sys.modules)
""")
    fields = ("id", "video", "start", "stop", "label", "imu", "split")
    plain = [tuple(getattr(s, f) for f in fields) for s in kitchen]
    (tmp_path / "segments").write_bytes(pickle.dumps(plain))
    command = [sys.executable, script, tmp_path / "segments", tmp_path / "out"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.stdout == "12 False\n", done.stderr
    assert "12/12 clips" in done.stderr and "clips/s" in done.stderr


KILLED = """
import pickle, sys
sys.path.insert(0, sys.argv[1])
import data
fields, options = pickle.load(open(sys.argv[2], "rb"))
data.prepare([data.Segment(*f) for f in fields], sys.argv[3], **options)
"""


@pytest.mark.parametrize("workers", [1, 2])
def test_killed_run_goes_on_where_it_stopped(tmp_path, workers):
    """80 segments along two recordings, killed after the first clip and in the middle."""
    imu = write_epic_imu(tmp_path, "x", 7)
    large = [np.kron(paint(i), np.ones((10, 8, 1), np.uint8)) for i in range(150)]
    videos = [write_video(tmp_path / "a.mp4", STEADY, pictures=large, preset="ultrafast")]
    videos.append(str(shutil.copy(videos[0], tmp_path / "b.mp4")))
    fields = [(str(i), videos[i % 2], i / 21, i / 21 + 2, "ab"[i % 2], imu) for i in range(80)]
    options = {
        "num_frames": 16,
        "frame_size": 24,
        "clip_frames": 16,
        "clip_size": 24,
        "progress": False,
        "workers": workers,
    }
    segments = [data.Segment(*f) for f in fields]
    whole = data.prepare(segments, tmp_path / "whole", **options).path
    (tmp_path / "arguments").write_bytes(pickle.dumps((fields, options)))
    out, in_the_middle = tmp_path / "killed", 0
    root = Path(data.__file__).parent
    command = [sys.executable, "-c", KILLED, root, tmp_path / "arguments", out]
    for wanted in (1, 30):
        process = subprocess.Popen(command)
        while process.poll() is None:
            if (out / "store.json").exists() and np.load(out / "status.npy").sum() >= wanted:
                break
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        process.wait()
        time.sleep(0.3)  # workers notice that their parent is gone
        done = np.load(out / "status.npy") == 1
        in_the_middle += not done.all()
        for name in ("frames_16", "ends", "clip", "imu"):
            killed, undisturbed = np.load(out / f"{name}.npy"), np.load(whole / f"{name}.npy")
            np.testing.assert_array_equal(killed[done], undisturbed[done])
        if not done.all():
            with pytest.warns(UserWarning, match="not prepared yet"):
                assert len(data.ClipStore(out)) == np.count_nonzero(done)
    assert in_the_middle, "the runs were over before they could be killed"
    data.prepare(segments, out, **options)
    assert arrays_of(out) == arrays_of(whole)


INTERRUPTED = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # Ignored in the background of a shell.
try:
    exec(sys.argv.pop(1))
except KeyboardInterrupt:
    sys.exit(130)
"""


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="counts the processes that are left in /proc")
@pytest.mark.parametrize(("workers", "clips"), [(1, 1), (2, 0), (2, 1)])
def test_ctrl_c_ends_all_processes_and_spoils_nothing(store, kitchen, tmp_path, workers, clips):
    """Pressed as the processes start, and after the first clip; a terminal sends it to all of them."""
    segments = [dataclasses.replace(kitchen[i], id=f"{k} {i}") for k in range(40) for i in range(9)]
    options = OPTIONS | {"workers": workers}
    (tmp_path / "given").write_bytes(pickle.dumps(([dataclasses.astuple(s) for s in segments], options)))
    out, root = tmp_path / "s", Path(data.__file__).parent
    command = [sys.executable, "-c", INTERRUPTED, KILLED, str(root), tmp_path / "given", out]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)
    while process.poll() is None:
        if (out / "store.json").exists() and np.load(out / "status.npy").sum() >= clips:
            if clips or len(group_of(process.pid)) > 1:
                break
        time.sleep(0.002)
    for worker in set(group_of(process.pid)) - {process.pid}:  # It may reach them long before the parent.
        with contextlib.suppress(ProcessLookupError):
            os.kill(worker, signal.SIGINT)
    time.sleep(0.15 * (clips == 0))
    os.killpg(process.pid, signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert (process.returncode, said) == (130, "")
    deadline = time.monotonic() + 5
    while group_of(process.pid) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not group_of(process.pid)
    # 160 clips a recording: none was read to its end first.
    assert 160 * (3 - workers) < np.count_nonzero(np.load(out / "status.npy") == 0) <= 480 - clips
    whole = data.prepare(segments, out, **options)
    for name in store.names:
        rows = store.read(name, np.arange(12))
        for k in range(40):
            np.testing.assert_array_equal(whole.read(name, np.arange(12 * k, 12 * k + 12)), rows)


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="counts the processes that are left in /proc")
def test_workers_end_when_their_parent_is_killed(kitchen, tmp_path):
    """Also where a process keeps the number of its dead parent, as on Windows."""
    segments = [dataclasses.replace(kitchen[i], id=f"{k} {i}") for k in range(400) for i in range(9)]
    options = OPTIONS | {"workers": 2}
    (tmp_path / "given").write_bytes(pickle.dumps(([dataclasses.astuple(s) for s in segments], options)))
    (tmp_path / "sitecustomize.py").write_text("import os\nos.getppid = lambda: 1\n")
    out, environment = tmp_path / "s", os.environ | {"PYTHONPATH": str(tmp_path)}
    command = [sys.executable, "-c", KILLED, str(Path(data.__file__).parent), tmp_path / "given", out]
    process = subprocess.Popen(command, env=environment, start_new_session=True)
    deadline = time.monotonic() + 60
    while not ((out / "store.json").exists() and np.load(out / "status.npy").any()):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.002)
    assert len(group_of(process.pid)) > 1
    process.kill()
    process.wait()
    deadline = time.monotonic() + 60
    while group_of(process.pid) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not group_of(process.pid)
    # 1,600 clips a recording: none was read to its end first.
    missing = np.load(out / "status.npy").reshape(400, 3, 4) == 0
    assert missing.any((0, 2)).all()


def test_kill_before_the_header_leaves_a_folder_that_can_be_used(kitchen, tmp_path, monkeypatch):
    write = data._write_json

    def die(path, value):
        if path.name == "store.json":
            raise KeyboardInterrupt
        write(path, value)

    monkeypatch.setattr(data, "_write_json", die)
    with pytest.raises(KeyboardInterrupt):
        data.prepare(kitchen, tmp_path / "s", **OPTIONS)
    monkeypatch.undo()
    assert len(data.prepare(kitchen, tmp_path / "s", **OPTIONS)) == 12


def test_rerun_reads_nothing_that_is_there(store, kitchen, monkeypatch):
    def forbidden(*_):
        raise AssertionError("decoded again")

    monkeypatch.setattr(data, "_fill", forbidden)
    assert len(data.prepare(kitchen, store.path, **OPTIONS)) == 12


def test_rerun_with_something_else_is_refused(store, kitchen):
    before = arrays_of(store.path)
    changes = [
        ({"num_frames": 1}, r"num_frames = \[1, 4\], not \[1\]"),
        ({"frame_size": 32}, "frame_size = 40, not 32"),
        ({"imu": False}, "imu = True"),
        ({"class_names": ["wash", "take", "cut"]}, "class names"),
    ]
    for change, words in changes:
        with pytest.raises(data.DataError, match=f"{words}.*another folder"):
            data.prepare(kitchen, store.path, **OPTIONS | change)
    with pytest.raises(data.DataError, match="9 segments, not 8"):
        data.prepare(kitchen[:-1], store.path, **OPTIONS)
    with pytest.raises(data.DataError, match=r"segment 0 was.*P01_101_0.*now.*P01_101_1"):
        data.prepare([kitchen[1], kitchen[0], *kitchen[2:]], store.path, **OPTIONS)
    assert arrays_of(store.path) == before


def test_a_store_of_another_version_or_of_mixed_files_is_refused(store, kitchen, tmp_path):
    """By whoever opens it and by prepare(), which leaves it as it is."""

    def change(file, edit):
        path = shutil.copytree(store.path, tmp_path / "s", dirs_exist_ok=True)
        content = json.loads((path / file).read_text())
        (path / file).write_text(json.dumps(edit(content) or content))
        before = arrays_of(path) | {file: (path / file).read_bytes()}
        for use in (data.ClipStore, lambda p: data.prepare(kitchen, p, **OPTIONS)):
            with pytest.raises(data.DataError) as error:
                use(path)
            assert str(path) in str(error.value)
        assert arrays_of(path) | {file: (path / file).read_bytes()} == before
        return str(error.value)

    said = change("store.json", lambda header: header.update(format="egodistill clip store 2"))
    assert "'egodistill clip store 2', made by another version" in said and "prepare another folder" in said
    for lacking in ("settings", "class_names", "arrays"):
        assert f"'{lacking}'" in change("store.json", lambda header, key=lacking: header.pop(key) and None)
    assert "'colour'" in change("segments.json", lambda all: all[0].update(colour="red"))
    assert "'segment'" in change("clips.json", lambda all: all[0].pop("segment") and None)
    assert "of two stores mixed" in change("clips.json", lambda all: all[:-1])
    assert "of two stores mixed" in change("clips.json", lambda all: all[1:] + all[:1])


def test_labels_outside_the_class_names(kitchen, tmp_path):
    with pytest.raises(data.DataError, match="'take' is not among the 2 class_names"):
        data.prepare(kitchen, tmp_path / "s", **OPTIONS, class_names=["cut", "wash"])
    assert not (tmp_path / "s").exists()
    names = ["zzz", "wash", "take", "cut"]
    few = {"num_frames": (), "ends": False, "workers": 1, "progress": False}
    store = data.prepare(kitchen, tmp_path / "s", **few, class_names=names)
    assert store.class_names == names and store.labels.tolist()[:4] == [1, 3, 3, -1]
    assert store.names == ["imu"] and len(store) == 12


def test_foreign_folder_is_left_alone(kitchen, tmp_path):
    (tmp_path / "thesis.tex").write_text("ten years of work")
    with pytest.raises(data.DataError, match=r"holds thesis.tex but no store.json"):
        data.prepare(kitchen, tmp_path, **OPTIONS)
    assert [f.name for f in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_folder_that_a_desktop_has_looked_at_is_empty(kitchen, tmp_path):
    names = {".DS_Store", "._s", ".directory", "Thumbs.db", "desktop.ini"}
    for name in names:
        (tmp_path / name).touch()
    assert len(data.prepare(kitchen, tmp_path, **OPTIONS)) == 12
    assert names < {file.name for file in tmp_path.iterdir()}


@pytest.mark.parametrize("workers", [1, 2])
def test_bad_clips_are_reported_and_the_rest_survives(kitchen, tmp_path, workers):
    bad = tmp_path / "bad.mp4"
    bad.write_bytes(Path(kitchen[3].video).read_bytes()[:3000])
    segments = [replace(s, video=str(bad)) if "P02" in s.id else s for s in kitchen]
    segments[0] = replace(segments[0], start=10.0, stop=11.0)  # behind the video's end
    options = OPTIONS | {"workers": workers}
    with pytest.raises(data.DataError, match=r"5 of 12 clips \(41.7%\).*max_bad = 10.0%"):
        data.prepare(segments, tmp_path / "s", **options)
    with pytest.warns(UserWarning, match=r"5 of 12 clips \(41.7%\) could not be prepared"):
        store = data.prepare(segments, tmp_path / "s", **options, max_bad=0.42)
    assert len(store) == 7 and store.segments.tolist() == [1, 1, 2, 6, 7, 7, 8]
    reasons = {failure["id"]: failure["reason"] for failure in store.failures}
    assert re.search("ends at 5.99. s, before the segment begins", reasons["P01_101_0"])
    assert str(bad) in reasons["P02_102_1"]
    lines = (tmp_path / "s/failures.jsonl").read_text().splitlines()
    assert len(lines) == 5  # a failed clip is not tried again unasked
    shutil.copy(kitchen[3].video, bad)
    with pytest.warns(UserWarning, match="1 of 12 clips"):
        store = data.prepare(segments, tmp_path / "s", **options, retry_failed=True)
    assert len(store) == 11


def test_lost_frames_and_uncovered_imu_cost_their_clips_only(kitchen, tmp_path):
    source = write_video(tmp_path / "a.mp4", STEADY, bf=0, g=1, crf=10)
    video = break_packets(source, tmp_path / "b.mp4", set(range(90, 125)))
    imu = write_epic_imu(tmp_path, "short", 5.5)
    segments = [data.Segment(str(t), video, t, t + 1, "x", imu) for t in (0.6, 3.6, 5)]
    with pytest.warns(UserWarning, match="2 of 3"):
        store = data.prepare(segments, tmp_path / "s", **OPTIONS, max_bad=0.9)
    assert store.segments.tolist() == [0]
    reasons = [failure["reason"] for failure in store.failures]
    assert "b.mp4: no frame at" in reasons[0] and "accelerometer covers" in reasons[1]
    assert "short-accl.csv" in reasons[1]


def test_prepare_with_other_settings(kitchen, tmp_path):
    """Sampling rule, IMU clock, coverage and sound reach the store."""
    video = write_sound(tmp_path / "a.mp4", chirp(np.arange(6 * 16000) / 16000), 16000, pictures=180)
    imu = write_epic_imu(tmp_path, "x", 7)
    segments = [
        data.Segment("s", video, 1.5, 3.0, "x", imu, imu_offset=0.5),
        data.Segment("late", video, 5.0, 5.9, "x", imu, imu_offset=-2.5),
    ]
    options = OPTIONS | {"num_frames": 2, "audio": True, "max_bad": 0.5}
    with pytest.warns(UserWarning, match="1 of 2 clips"):
        store = data.prepare(segments, tmp_path / "s", **options)
    assert len(store) == 1 and "covers" in store.failures[0]["reason"]
    start = store.clips[0]["start"]
    grid = start + np.arange(422) / 198 - 0.5  # what was stamped half a second before
    np.testing.assert_allclose(store.read("imu", 0)[:, :3], ramp(grid, 1, 9.8), atol=1e-4)
    sound = data.read_audio(video, [start + (CLIP - 2) / 2])[0]
    np.testing.assert_array_equal(store.read("audio", 0), data.log_mel(sound))
    assert len(data.prepare(segments, tmp_path / "low", **options | {"min_coverage": 0.05})) == 2

    first = data.prepare(kitchen[:1], tmp_path / "f", **OPTIONS | {"sampling": "first"})
    starts = first.clips[0]["start"] + (np.arange(4) + 0.5) / 30
    assert [number_of(p) for p in first.read("frames_4", 0)] == expected_numbers(STEADY, starts)
    drawn = [
        data.prepare(kitchen[:1], tmp_path / f"r{k}", **OPTIONS | {"sampling": "random", "seed": k % 2})
        for k in range(3)
    ]
    frames = [s.read("frames_4", 0) for s in drawn]
    assert (frames[0] == frames[2]).all() and (frames[0] != frames[1]).any()
    with pytest.raises(data.DataError, match="prepared with sampling = first, not uniform"):
        data.prepare(kitchen[:1], tmp_path / "f", **OPTIONS)
    with pytest.raises(data.DataError, match="'middle'"):
        data.prepare(kitchen[:1], tmp_path / "m", **OPTIONS | {"sampling": "middle"})
    keys = data.prepare(kitchen[:2], tmp_path / "k", **OPTIONS | {"exact": False})
    for row, clip in enumerate(keys.clips):
        times = clip["start"] + (np.arange(4) + 0.5) / 4 * CLIP
        numbers = [number_of(p) for p in keys.read("frames_4", row)]
        assert numbers == [number_of(p) for p in data.read_frames(clip["video"], times, exact=False)]
        assert numbers != expected_numbers(STEADY, times)
        dense = data.read_frames(clip["video"], clip["start"] + (np.arange(3) + 0.5) / 3 * CLIP, 24, crop=True)
        np.testing.assert_array_equal(keys.read("clip", row), dense)
    with pytest.warns(UserWarning, match="1 of 1 clips"):
        silent = data.prepare(kitchen[:1], tmp_path / "q", **OPTIONS | {"audio": True, "max_bad": 1.0})
    assert "has no audio" in silent.failures[0]["reason"]


def test_a_clip_cut_out_of_a_long_video_finds_its_head_motion(tmp_path):
    """As Ego4D's clips have it: the IMU's stamps are those of the video, far beyond the clip's own length."""
    video = write_video(tmp_path / "clip.mp4", STEADY, **X264)
    imu = write_epic_imu(tmp_path, "long", 60)
    segment = data.Segment("s", video, 1.0, 2.0, "x", imu, imu_offset=-40.0)
    store = data.prepare([segment], tmp_path / "s", **OPTIONS)
    grid = store.clips[0]["start"] + 40 + np.arange(422) / 198
    np.testing.assert_allclose(store.read("imu", 0)[:, :3], ramp(grid, 1, 9.8), atol=1e-3)


def test_notes_of_the_imu_stay_with_the_store(kitchen, tmp_path):
    imu = write_epic_imu(tmp_path, "x", 7)
    lines = Path(imu[0]).read_text().splitlines()
    Path(imu[0]).write_text("\n".join([lines[0], *lines[:0:-1]]) + "\n")
    segment = replace(kitchen[0], imu=imu)
    notes = data.prepare([segment], tmp_path / "s", **OPTIONS).notes
    assert list(notes) == [" and ".join(imu)]
    assert "x-accl.csv: the rows are not in the order of their times" in notes[" and ".join(imu)]


MEASURED = """
import re, sys
from egodistill import data
segments = [data.Segment(f"s{k}", sys.argv[1], 2 * k, 2 * k + 2, "x") for k in range(int(sys.argv[2]))]
store = data.prepare(segments, sys.argv[3], frame_size=32, imu=False, ends=False, workers=1, progress=False)
print(len(store), int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1]) // 1024)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak memory from /proc")
def test_memory_does_not_grow_with_the_recording(tmp_path):
    """Twenty times the video and the segments: the peak stays, where 6,000 held pictures would be 1.3 GB."""
    noise = np.random.default_rng(0).integers(0, 256, (10, 240, 320, 3)).astype(np.uint8)
    peaks = []
    for k, count in enumerate((300, 6000)):
        times = np.arange(count) / 25
        video = write_video(
            tmp_path / f"{k}.mp4",
            times,
            pictures=[noise[i % 10] for i in range(count)],
            preset="ultrafast",
            g=50,
            crf=45,
        )
        command = [sys.executable, "-c", MEASURED, video, str(count // 50), str(tmp_path / f"s{k}")]
        clips, peak = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
        assert int(clips) == count // 50
        peaks.append(int(peak))
    assert peaks[1] < peaks[0] + 40


def test_video_shorter_than_a_clip(tmp_path):
    video = write_video(tmp_path / "a.mp4", STEADY[:25], **X264)
    segment = data.Segment("s", video, 0.2, 0.9, "x", write_epic_imu(tmp_path, "x", 4))
    store = data.prepare([segment], tmp_path / "s", **OPTIONS)
    assert store.clips[0]["start"] == 0
    assert [number_of(p) for p in store.read("frames_4", 0)] == [6, 20, 24, 24]


@pytest.mark.skipif(os.name == "nt", reason="a shell script stands in for Python")
@pytest.mark.parametrize(("signum", "words"), [("SEGV", "12 of 12"), ("KILL", "code -9")])
def test_a_worker_that_dies(kitchen, tmp_path, monkeypatch, signum, words):
    """A crash of the decoder is the video's fault; a kill says nothing and ends the run."""
    fake = tmp_path / "python"
    fake.write_text(f"#!/bin/sh\nkill -{signum} $$\n")
    fake.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(fake))
    with pytest.raises(data.DataError, match=words):
        data.prepare(kitchen, tmp_path / "s", **OPTIONS | {"workers": 2})
    status = np.load(tmp_path / "s/status.npy")
    assert (status == (2 if signum == "SEGV" else 0)).all()
    monkeypatch.undo()
    store = data.prepare(kitchen, tmp_path / "s", **OPTIONS, retry_failed=True)
    assert len(store) == 12 and not store.failures


class Windows(subprocess.Popen):
    """Windows' arguments and exit codes: the code 77 stands for `code`, which no process here can have."""

    code, groups = 0, ()

    def __init__(self, *arguments, creationflags=0, **options):
        type(self).groups = (*self.groups, creationflags)
        super().__init__(*arguments, **options)

    def wait(self, timeout=None):
        self.returncode = super().wait(timeout)
        self.returncode = self.code if self.returncode == 77 else self.returncode
        return self.returncode


@pytest.mark.skipif(os.name == "nt", reason="a script stands in for Python")
@pytest.mark.parametrize("code", [0xC0000005, 0xC0000094, 0xC000001D, 0xC0000374, 0xC0000409, 3])
def test_a_crash_on_windows_costs_one_recording(kitchen, tmp_path, monkeypatch, code):
    """The first recording's worker crashes, the others do their work. None of them hears of Ctrl-C."""
    fake = tmp_path / "python"
    fake.write_text(f"""#!{sys.executable}
import io, sys
sys.path.insert(0, {str(Path(data.__file__).parent)!r})
import data
line = sys.stdin.readline()
if line.startswith("[[0, "):
    sys.exit(77)
sys.stdin = io.StringIO(line)
data._serve(sys.argv[2])
""")
    fake.chmod(0o755)
    Windows.code, Windows.groups = code, ()
    monkeypatch.setattr(sys, "executable", str(fake))
    monkeypatch.setattr(subprocess, "Popen", Windows)
    monkeypatch.setattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 512, raising=False)
    with pytest.warns(UserWarning, match=rf"4 of 12 clips.*crashed the decoder \(code {code}\)"):
        store = data.prepare(kitchen, tmp_path / "s", **OPTIONS | {"workers": 2}, max_bad=0.5)
    assert len(store) == 8 and {failure["clip"] for failure in store.failures} == {0, 1, 2, 3}
    assert Windows.groups == (512,) * 3


class Recorder:
    """Stands in for a mapped array and notes what is written, in order."""

    def __init__(self, name, array, log):
        self.name, self.array, self.log = name, array, log

    def __getattr__(self, name):
        return getattr(self.array, name)

    def __getitem__(self, index):
        return self.array[index]

    def __setitem__(self, index, value):
        self.log.append((self.name, np.atleast_1d(index[0] if isinstance(index, tuple) else index)))
        self.array[index] = value

    def __eq__(self, other):
        return self.array == other

    __hash__ = None


@pytest.fixture
def log(monkeypatch):
    written, mapped = [], data.ClipStore._map

    def recorded(self, name, mode="r"):
        array = mapped(self, name, mode)
        return Recorder(name, array, written) if mode == "r+" else array

    monkeypatch.setattr(data.ClipStore, "_map", recorded)
    return written


def test_data_are_written_before_the_status(kitchen, tmp_path, log):
    data.prepare(kitchen[:2], tmp_path / "s", **OPTIONS)
    for row in range(3):
        names = [name for name, rows in log if row in rows]
        assert names[-1] == "status" and names.count("status") == 1
        assert {"frames_1", "frames_4", "ends", "clip", "imu"} == set(names[:-1])


def test_teacher_outputs(store, kitchen, tmp_path, log):
    path = shutil.copytree(store.path, tmp_path / "s")
    store = data.ClipStore(path)
    test = store.split("test")
    store.add("t.feature", (5,), np.float32)
    assert "t.feature" in store.names and not store.done("t.feature").any()
    with pytest.raises(data.DataError, match="not written yet"):
        store.read("t.feature", [0])
    values = np.arange(10, dtype=np.float32).reshape(2, 5)
    del log[:]
    test = data.ClipStore(path).split("test")
    test.add("t.feature", (5,), "float32")  # finds it
    test.write("t.feature", np.array([3, 0]), values)
    assert [name for name, _ in log] == ["t.feature", "t.feature.done"]  # data first, then the mark
    assert test.done("t.feature").tolist() == [True, False, False, True]
    assert np.flatnonzero(store.done("t.feature")).tolist() == [8, 11]
    np.testing.assert_array_equal(store.read("t.feature", [8, 11]), values[::-1])
    np.testing.assert_array_equal(np.load(path / "t.feature.npy", mmap_mode="r")[11], values[0])
    assert np.load(path / "t.feature.done.npy").sum() == 2
    assert store.done("imu").all()
    assert "t.feature" in data.ClipStore(path).names and len(data.ClipStore(path)) == 12
    assert len(data.prepare(kitchen, path, **OPTIONS)) == 12  # going on does not mind them
    for change in ((6,), np.float32), ((5,), np.float16):
        with pytest.raises(data.DataError, match=r"has t.feature already"):
            store.add("t.feature", *change)
    with pytest.raises(data.DataError, match="not made by add"):
        store.write("imu", [0], np.zeros((1, 422, 6), np.float32))
    for wrong in (np.zeros((2, 4), np.float32), np.zeros((1, 5)), np.zeros((2, 5), complex)):
        with pytest.raises(data.DataError, match=r"t.feature takes float32 \(2, 5\)"):
            store.write("t.feature", [0, 1], wrong)
    with pytest.raises(data.DataError, match="cannot be the name"):
        store.add("../x", (1,), np.float32)


def test_names_that_windows_and_macos_cannot_have(store, tmp_path):
    store = data.ClipStore(shutil.copytree(store.path, tmp_path / "s"))
    for name in ("CON", "nul", "Aux.feature", "COM1.logits", "lpt9"):
        with pytest.raises(data.DataError, match=f"'{name}' cannot be the name of an array: Windows"):
            store.add(name, (1,), np.float32)
    store.add("Teacher.feature", (1,), np.float32)
    store.add("console.feature", (1,), np.float32)
    for name, other in (("teacher.feature", "Teacher.feature"), ("Status", "status"), ("IMU", "imu")):
        with pytest.raises(data.DataError, match=f"has {other} already.*Windows and macOS.*{name}"):
            store.add(name, (1,), np.float32)
    assert data.ClipStore(store.path).names[-2:] == ["Teacher.feature", "console.feature"]
    store.add("Teacher.feature", (1,), np.float32)  # finds it


def test_damaged_stores_are_named(store, tmp_path):
    def copy(name):
        return shutil.copytree(store.path, tmp_path / name)

    path = copy("cut")
    (path / "imu.npy").write_bytes((store.path / "imu.npy").read_bytes()[:-100])
    with pytest.raises(data.DataError, match=r"imu.npy: missing or cut off"):
        data.ClipStore(path)
    path = copy("gone")
    (path / "ends.npy").unlink()
    with pytest.raises(data.DataError, match=r"ends.npy: missing"):
        data.ClipStore(path)
    path = copy("other")
    np.save(path / "label.npy", np.zeros(3))
    with pytest.raises(data.DataError, match=r"label.npy: is float64 \(3,\)"):
        data.ClipStore(path)
    path = copy("pickled")
    np.save(path / "label.npy", np.array([{}] * 12, object), allow_pickle=True)
    with pytest.raises(data.DataError, match=r"label.npy"):
        data.ClipStore(path)
    for name, text in (("json", '{"arrays": 1}'), ("list", "[1]"), ("broken", '{"format')):
        path = copy(name)
        (path / "store.json").write_text(text)
        with pytest.raises(data.DataError, match=r"store.json: is (not the header|damaged)"):
            data.ClipStore(path)
    with pytest.raises(data.DataError, match=r"store.json: cannot be read"):
        data.ClipStore(tmp_path / "nowhere")


def test_full_disk_is_seen_before_anything_is_written(kitchen, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(data.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(data.DataError, match=r"GB are needed, 0.0 GB are free"):
        data.prepare(kitchen, tmp_path / "s", **OPTIONS)


def test_full_disk_while_the_arrays_are_made(kitchen, store, tmp_path, full_disk):
    """Of prepare() and of a teacher's outputs; nothing half made stays, and the same call goes on."""
    path = tmp_path / "s"
    largest = max(file.stat().st_size for file in store.path.iterdir())
    with full_disk(largest - 1), pytest.raises(data.DataError, match=r"s/\w+\.npy: cannot be written: File too large"):
        data.prepare(kitchen, path, **OPTIONS)
    assert not (path / "store.json").exists() and not list(path.glob("*.partial"))
    assert arrays_of(data.prepare(kitchen, path, **OPTIONS).path) == arrays_of(store.path)
    header, files = (path / "store.json").read_bytes(), sorted(path.iterdir())
    made = data.ClipStore(path)
    with full_disk(4096), pytest.raises(data.DataError, match=r"s/t\.feature\.npy: cannot be written.*MB are free"):
        made.add("t.feature", (1000,), np.float32)
    with full_disk(len(header)), pytest.raises(data.DataError, match=r"s/store\.json: cannot be written"):
        made.add("t.x", (1,), np.float32)
    assert (path / "store.json").read_bytes() == header and made.names == data.ClipStore(path).names
    assert {file.name for file in path.iterdir()} - {file.name for file in files} == {"t.x.npy", "t.x.done.npy"}
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
    with pytest.raises(data.DataError, match=r"t\.logits\.npy: cannot be written: No space.*the same call goes on"):
        store.add("t.logits", (3,), np.float32)


@pytest.mark.parametrize("workers", [1, 2])
def test_full_disk_while_a_failure_is_noted(kitchen, tmp_path, full_disk, workers, capfd):
    """Half a line is written of it. The clip stays missing, and is noted when there is room again."""
    segments = [replace(s, video=str(tmp_path / f"{s.id[:7]}.mp4")) for s in kitchen]
    options = OPTIONS | {"workers": workers}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(data, "_fill", lambda *_: iter(()))
        data.prepare(segments, tmp_path / "s", **OPTIONS)
    words = "failures.jsonl: cannot be written: File too large" if workers == 1 else "ended with code 1 .*stands above"
    with full_disk(700), pytest.raises(data.DataError, match=words):
        data.prepare(segments, tmp_path / "s", **options)
    said = capfd.readouterr().err
    assert "Traceback" not in said and ("failures.jsonl: cannot be written" in said) is (workers > 1)
    assert (tmp_path / "s" / "failures.jsonl").stat().st_size == 700
    with pytest.warns(UserWarning, match="12 of 12 clips"):
        store = data.prepare(segments, tmp_path / "s", **options, max_bad=1.0)
    assert [failure["reason"].endswith("no such file") for failure in store.failures] == [True] * 12


def test_real_gopro_walk_through_the_store(sample, tmp_path):
    """Telemetry in the video and the Ego4D-like pair of the same walk give the same clips."""
    gopro = data.Segment("a", sample("gopro/max-heromode.mp4"), 1.0, 9.0, "walk")
    pair = data.Segment(
        "b", sample("gopro-derived/walk_vp9_30fps.mp4"), 1.0, 9.0, "walk", sample("gopro-derived/walk_imu.csv")
    )
    store = data.prepare([gopro, pair], tmp_path / "s", frame_size=32, workers=1, progress=False)
    assert store.segments.tolist() == [0] * 4 + [1] * 4 and not store.failures
    imu, frames = (store.read(name, np.arange(8)) for name in ("imu", "frames_1"))
    np.testing.assert_allclose(imu[:4], imu[4:], atol=1e-4)
    assert imu[:, :, 2].mean() == pytest.approx(9.7, abs=0.1)
    for one, other in zip(frames[:4], frames[4:], strict=True):  # re-encoded, with more contrast
        assert np.corrcoef(one.ravel(), other.ravel())[0, 1] > 0.98


def test_imports_nothing_but_numpy_and_av():
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); import data; "
        "print([m for m in ('torch', 'egodistill', 'teachers') if m in sys.modules])"
    )
    command = [sys.executable, "-c", code, str(Path(data.__file__).parent)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.stdout == "[]\n", done.stderr
