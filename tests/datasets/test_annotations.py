"""Annotations of data sets: what is read, what is left out, and what errors say."""

import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
from painted import STEADY, write_epic_imu, write_table, write_video
from waiting import LIMIT

import egodistill
from egodistill import DataError
from egodistill.data import read_imu
from egodistill.datasets import annotations
from egodistill.imu import IMUError

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
    assert [s.id for s in few.origin.left_out] == [found[3].id] and not few.origin.is_sparse
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


def test_real_epic_kitchens_tables(sample, epic_imu):
    """The README's counts: P30 has 11 videos, 2,842 rows and 56 verb classes, all with IMU."""
    found = annotations.read_epic_kitchens(sample("epic-kitchens-100/EPIC_100_uda_target_val.csv"), epic_imu)
    assert len(found) == 7906 and not found.dropped
    test = [s for s in found if s.split == "test"]
    assert len(test) == 2842 and len({s.video for s in test}) == 11
    assert len({s.label for s in test}) == 56
    assert (found[0].label, found[0].start, found[0].stop) == ("turn-on", 2.6, 3.86)
    joined = annotations.read_epic_kitchens(sample("epic-kitchens-100/imu_train_subset_joined.csv"), epic_imu)
    assert len(joined) == 5138 and {s.split for s in joined} == {"train"}
    with pytest.raises(DataError, match=r"\(9668 segments: the video has no IMU files\).*validation"):
        annotations.read_epic_kitchens(sample("epic-kitchens-100/EPIC_100_validation.csv"), epic_imu)


def test_epic_split_by_another_word(tmp_path):
    write_epic_imu(tmp_path / "P01" / "meta_data", "P01_101", 2)
    (tmp_path / "P01" / "videos").mkdir()
    write_video(tmp_path / "P01/videos/P01_101.MP4", STEADY[:5])
    table = write_table(tmp_path / "t.csv", EPIC, [epic_row(0, "P01_101")])
    assert {s.split for s in annotations.read_epic_kitchens(table, tmp_path, split="all")} == {"all"}


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
    assert [one.label for one in found.origin.left_out] == ["rare"] and found.origin.is_sparse
    assert len(annotations.read_ego4d(table, root, min_instances=1)) == 4  # 'rare' goes to train or test
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


def test_options_of_data_sets_are_refused_for_your_own_table(tmp_path):
    write_video(tmp_path / "a.mp4", STEADY)
    table = write_table(tmp_path / "t.csv", ("video", "start", "stop", "label"), [("a.mp4", 0, 1, "cut")])
    assert annotations.read_annotations(table).dropped == {}
    with pytest.raises(DataError, match=r"t\.csv: root .* is for public data sets; the paths of your own table are"):
        annotations.read_annotations(table, tmp_path)


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
    with pytest.raises(DataError, match=r"a.mp4: a video, not annotations; give a table .* or .* folder"):
        annotations.read_annotations(tmp_path / "a.mp4")
    with pytest.raises(DataError, match=r"own.csv: min_instances .* is for public data sets"):
        annotations.read_annotations(own, min_instances=2)
    for fixed in (epic, own):
        with pytest.raises(DataError, match=f"{fixed.name}: its splits are fixed; seed .--split-seed. is for"):
            annotations.read_annotations(fixed, seed=0)
    for gone in ("gone.csv", "gone.json"):
        with pytest.raises(DataError, match=f"{gone}: cannot be read"):
            annotations.read_annotations(tmp_path / gone)


def test_the_module_is_found_under_its_name():
    """`from __future__ import annotations` in egodistill.py would put something else there."""
    code = "from egodistill.datasets import annotations; annotations.read_csv; print('found')"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=Path(egodistill.__file__).parent, capture_output=True, text=True, timeout=LIMIT)
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
    monkeypatch.setattr("egodistill.support.records.MAX_VALUE", 1000)
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


def test_ego4d_takes_wearer_and_views_from_the_data_sets_own_table(tmp_path):
    root = ego4d_root(tmp_path, *(f"imu/{uid}.csv" for uid in "abcd"), *(f"full_scale/{uid}.mp4" for uid in "abcd"))
    about = [
        {"video_uid": "a", "fb_participant_id": 17},
        {"video_uid": "b", "fb_participant_id": "x", "is_stereo": True},
        {"video_uid": "c", "fb_participant_id": None},
    ]
    write_json(root / "ego4d.json", {"videos": about})
    videos = [ego4d_video(uid, ego4d_action(f"{uid}1"), ego4d_action(f"{uid}2")) for uid in "abcd"]
    table = write_json(root / "fho.json", {"videos": videos})
    found = annotations.read_ego4d(table, root)
    assert [(Path(s.video).stem, s.wearer) for s in found[::2]] == [("a", "17"), ("c", None), ("d", None)]
    assert found.dropped == {"the video shows two views (stereo)": 2}
