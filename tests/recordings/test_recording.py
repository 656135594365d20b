"""Recordings: who joins video and IMU, on which clock, and which reader finds both."""

import copy
import pickle
import re
import shutil
from dataclasses import replace
from pathlib import Path

import mine
import numpy as np
import pytest
from camera_files import neon_tables, write_gopro
from heads import head, write_log
from painted import (
    STEADY,
    write_epic_imu,
    write_table,
)

from egodistill import DataError, data
from egodistill.data import read_imu
from egodistill.datasets import segments
from egodistill.imu import IMU_READERS, CoverageError, Imu, IMUError
from egodistill.recordings import read_clip, recording as home
from egodistill.recordings.checks import check
from egodistill.recordings.recording import READERS, Recording, find_videos, is_neon, open_recording, unused_tables
from egodistill.recordings.spec import ClipSpec, read_axes
from egodistill.video import VideoError, VideoInfo

STUDENT = ClipSpec(frames=4, size=40, imu_samples=422)


def test_a_recording_is_read_once_and_travels_light(kitchen, monkeypatch):
    reads = []
    monkeypatch.setattr(home, "read_imu", lambda *a, **k: (reads.append(a), read_imu(*a, **k))[1])
    walk = replace(kitchen[3].recording)
    assert walk.motion() is walk.motion() and len(reads) == 1
    assert len(pickle.dumps(walk)) < 1000 and pickle.loads(pickle.dumps(walk)) == copy.copy(walk) == walk
    assert walk.probe().duration == pytest.approx(6, abs=0.05) and walk.wearer == "P02"
    assert hash(walk) == hash(replace(walk))


def test_what_a_file_is_a_recording_of(kitchen, tmp_path):
    imu = write_epic_imu(tmp_path, "walk", 3)
    video = shutil.copy(kitchen[0].video, tmp_path / "walk.mp4")
    found = open_recording(video, imu_offset=0.5, wearer="me")
    assert found == Recording(str(video), imu, 0.5, 1.0, "me")  # tables beside it
    assert open_recording(video, imu[0]).imu == imu[0] and open_recording(found) is found
    with pytest.raises(DataError, match="has its own IMU and clock"):
        open_recording(found, imu_offset=1.0)
    Path(imu[0]).unlink()
    alone = open_recording(Path(video))
    assert alone.imu is None and alone.imu_source == str(video)
    with pytest.raises(IMUError, match="no IMU"):
        alone.motion()


def test_a_table_beside_a_video_is_its_imu(steady, tmp_path):
    video = Path(shutil.copy(steady, tmp_path / "walk.MP4"))
    assert open_recording(video).imu is None
    table = video.with_suffix(".csv")
    for header, found in (
        ("start,stop,class_1,score_1", None),
        ("time,ax,ay,az", None),
        ("time,gx,gy,gz", str(table)),  # with zero_accel
        ("time,ax,ay,az,gx,gy,gz", str(table)),
    ):
        table.write_text(header + "\n")
        assert open_recording(video).imu == found
        if found is None:  # nothing may be passed over in silence
            with pytest.raises(
                IMUError, match=r"no IMU: .*; the table beside it is not used: .*walk\.csv: (no |a res)"
            ):
                open_recording(video).motion()
            notes = check(video, offset=False).notes
            assert sum("beside it is not used" in note for note in notes) == 1
    table.rename(tmp_path / "other.csv")
    Path(tmp_path, "walk-gyro.csv").touch()
    with pytest.raises(IMUError, match=r"walk-gyro\.csv is not used: walk-accl\.csv is missing beside it"):
        open_recording(video).motion()
    table.write_text("time,ax,ay,az,gx,gy,gz\n")
    pair = write_epic_imu(tmp_path, "walk", 1)
    assert open_recording(video).imu == pair
    assert open_recording(table).imu == pair  # of the same name, though no video: as before


def test_telemetry_notes_the_table_that_takes_no_part(kitchen, tmp_path):
    video = write_gopro(tmp_path / "walk.mp4", kitchen[0].recording)
    video = Path(video)
    assert not any("beside" in note for note in open_recording(video).motion().notes)
    video.with_suffix(".csv").write_text("time,ax,ay,az,gx,gy\n")
    (note,) = (note for note in open_recording(video).motion().notes if "beside" in note)
    assert note.startswith("the table beside it is not used: ") and "no gyroscope column gz" in note


@pytest.mark.parametrize(
    ("name", "told"),
    [("empty.mp4", "the file is empty"), ("cut.mp4", "cannot be opened: "), (".", "a folder, not a file")],
)
def test_a_broken_video_is_told_before_its_telemetry_is_missed(name, told, steady, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("empty.mp4").touch()
    Path("cut.mp4").write_bytes(Path(steady).read_bytes()[:1000])
    with pytest.raises(VideoError, match=f"^{name}: {told}"):
        open_recording(name).motion()


def test_a_gyroflow_log_beside_a_video_is_its_imu(steady, tmp_path):
    head = "GYROFLOW IMU LOG\norientation,XYZ\ngscale,0.001\nascale,0.00048828125\nt,gx,gy,gz,ax,ay,az\n"
    rows = "".join(f"{5 * k},0,0,100,2048,0,0\n" for k in range(1000))
    video = Path(shutil.copy(steady, tmp_path / "walk.mp4"))
    for name in ("walk.GCSV", "walk.gcsv"):  # the first one stays: the usual case comes first
        video.with_name(name).write_text(head + rows)
        assert open_recording(video).imu == str(video.with_name(name))
    clip = read_clip(open_recording(video), 1.0, ClipSpec(imu_samples=422))
    np.testing.assert_allclose(clip["imu"][0], [0, 0, 9.80665, 0, 0.1, 0], atol=1e-6)
    for name, header, found in (
        ("walk.CSV", "start,stop,class_1", "walk.gcsv"),  # of `predict`
        ("walk.CSV", "time,ax,ay,az,gx,gy,gz", "walk.CSV"),
        ("walk.csv", "time,ax,ay,az,gx,gy,gz", "walk.csv"),
    ):
        video.with_name(name).write_text(header + "\n")
        assert open_recording(video).imu == str(video.with_name(found))
    assert open_recording(tmp_path / "walk.gcsv").imu is None  # not a video


def since_boot(path, first, count=1000):
    """Write an IMU table whose turn rate about Z is the number of its row, from ``first`` on in steps of 5 ms."""
    rows = [f"{first + k / 200},0,{k % 2},9.8,0,0.1,{k / 1000}" for k in range(count)]
    path.write_text("\n".join(["time,ax,ay,az,gx,gy,gz", *rows]) + "\n")
    return path


def test_a_clock_since_boot_begins_with_the_video(steady, tmp_path):
    table = since_boot(tmp_path / "a.csv", 51234.5)
    walk = Recording(steady, table)
    turns = read_clip(walk, 1.0, ClipSpec(imu_samples=198, seconds=1.0))["imu"][:, 5]
    np.testing.assert_allclose(turns, (1.0 + np.arange(198) / 198) / 5, atol=1e-4)
    (note,) = walk.motion().notes
    assert note.startswith("its times begin at 51234.5 s, as on a clock that runs since boot, and are taken to begin")
    assert "(5.0 s of samples, 6.0 s of video); if not, give imu_offset (--imu-offset)" in note
    later = Recording(steady, table, imu_offset=0.25, imu_stretch=1.01).motion()  # as `check --out` measures it
    np.testing.assert_allclose(later.gyro_time[[0, 100]], [0.25, 0.25 + 1.01 * 0.5])
    assert later.notes == (note,)


@pytest.mark.parametrize(
    ("first", "clock"),
    [
        (0.0, {}),
        (5.9, {}),  # a tenth of a second is in the video
        (-4.9, {}),
        (-60.0, {}),  # before the video: not a clock that begins later
        (51234.5, {"imu_offset": -51234.0}),  # the clock is known
        (51234.5, {"imu_offset": -51000.0}),  # a wrong clock stays wrong: not even from zero does it overlap
        (51234.5, {"imu_offset": 30.0}),
    ],
)
def test_clocks_that_overlap_or_are_given_stay(steady, tmp_path, first, clock):
    motion = Recording(steady, since_boot(tmp_path / "a.csv", first), **clock).motion()
    assert motion.accel_time[0] == pytest.approx(first + clock.get("imu_offset", 0)) and motion.notes == ()


def test_a_long_log_since_boot_needs_its_clock(steady, tmp_path):
    table = since_boot(tmp_path / "a.csv", 51234.5, count=200 * 73)  # seconds; the video has 6
    with pytest.raises(IMUError, match=r"a.csv: its times begin at 51234.5 s, as .* give imu_offset \(--imu-offset\)"):
        Recording(steady, table).motion()
    for offset in (-51240.5, -6.0):  # the clock, or that of a log which begins with zero
        motion = Recording(steady, table, imu_offset=offset).motion()
        assert motion.gyro_time[0] == pytest.approx(-6.0)
    assert Recording(steady, since_boot(tmp_path / "b.csv", 51234.5, count=200 * 71)).motion().gyro_time[0] == 0


def test_unix_times_stay_an_error(steady, tmp_path):
    with pytest.raises(IMUError, match="are over eleven days from the video's start; if they are Unix times, subtract"):
        Recording(steady, since_boot(tmp_path / "a.csv", 1.7e9)).motion()


def test_a_clock_since_boot_needs_no_video_that_can_be_read(tmp_path):
    motion = Recording(tmp_path / "gone.mp4", since_boot(tmp_path / "a.csv", 9.5)).motion()
    assert motion.gyro_time[0] == 9.5 and motion.notes == ()


def test_videos_of_a_folder_are_found(tmp_path):
    for name in ("b.MP4", "a.mkv", "sub/c.mov", ".hidden/d.mp4", "sub/._c.mov", "e.txt", "f.lrv"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "folder.mp4").mkdir()
    assert find_videos(tmp_path) == [str(tmp_path / name) for name in ("a.mkv", "b.MP4", "sub/c.mov")]
    with pytest.raises(DataError, match=r"none: no such folder"):
        find_videos(tmp_path / "none")


def test_a_reader_of_ones_own(kitchen, tmp_path, monkeypatch):
    def camera(path):
        """A camera that names its files CAM_<wearer>_<n>.mp4 and is a second late."""
        if not path.name.startswith("CAM_"):
            return None
        return Recording(str(path), kitchen[0].imu, imu_offset=1.0, wearer=path.name.split("_")[1])

    monkeypatch.setattr(home, "READERS", [camera, *READERS])
    video = shutil.copy(kitchen[0].video, tmp_path / "CAM_ann_1.mp4")
    found = open_recording(video, imu_offset=0.25, imu_stretch=2.0)
    assert (found.wearer, found.imu_offset, found.imu_stretch) == ("ann", 2.25, 2.0)
    assert open_recording(kitchen[0].video).wearer is None


def test_the_clock_of_ones_own_telemetry_reader_is_applied_once(kitchen, tmp_path, monkeypatch):
    """Its recording has no IMU file, so that segments of it could be opened, and moved, again and again."""
    video = kitchen[0].video
    monkeypatch.setattr(home, "READERS", [lambda path: Recording(video, imu_offset=0.5, imu_stretch=1.1)])
    (tmp_path / "a.mp4").touch()
    (tmp_path / "list.csv").write_text("video,split\na.mp4,train\n")
    found = data.name_imu_files(segments.read_recordings(tmp_path / "list.csv"))[0].recording
    again = data.find_imu(found)
    assert (again.imu_source, again.imu_offset, again.imu_stretch) == (video, 0.5, 1.1)
    assert again.files == (video,)


def test_arguments_of_open_recording_are_added_to_what_a_reader_finds(kitchen, tmp_path, monkeypatch):
    own = Recording(kitchen[0].video, kitchen[0].imu, imu_offset=1.0, imu_stretch=1.5, wearer="ann")
    monkeypatch.setattr(home, "READERS", [lambda path: own])
    assert open_recording("x.mp4") == own
    changed = open_recording("x.mp4", imu_offset=0.25, imu_stretch=2.0, wearer="bob", zero_accel=True)
    assert changed == replace(own, imu_offset=2.25, imu_stretch=3.0, wearer="bob", zero_accel=True)
    assert open_recording("x.mp4", "a.csv", imu_offset=0.25) == Recording("x.mp4", "a.csv", 0.25)


def neon_folder(folder, video, frames, stretch=1.0):
    """A Neon recording of a video, on a clock slower by ``stretch``; its module turns ever faster about z."""
    folder.mkdir()
    shutil.copy(video, folder / "scene.mp4")
    times = np.arange(0, frames[-1] / stretch, 0.005)
    up = np.array([[0, np.sin(np.deg2rad(12)), np.cos(np.deg2rad(12))]])  # seen by a camera 12 degrees further down
    gyro = np.deg2rad(times)[:, None] * up
    return neon_tables(folder, np.asarray(frames) / stretch, times, 9.8 * up.repeat(len(times), 0), gyro)


def test_a_neon_recording_is_its_folder_or_its_video(steady, tmp_path):
    folder = neon_folder(tmp_path / "neon", steady, STEADY, stretch=1.01)
    found = open_recording(folder)
    assert found == open_recording(folder / "scene.mp4") and found.video == str(folder / "scene.mp4")
    assert found.imu == str(folder / "imu.csv") and found.imu_offset == 0
    assert found.files == (found.video, found.imu, str(folder / "world_timestamps.csv"))
    assert found.imu_stretch == pytest.approx(1.01, abs=1e-7)
    yaw = read_clip(found, 2.0, ClipSpec(imu_samples=422))["imu"][
        :, 5
    ]  # the module's z, seen by a camera 12 degrees down
    grid = (2.0 + np.arange(422) / 198) / 1.01
    np.testing.assert_allclose(yaw, np.deg2rad(grid) * np.cos(np.deg2rad(12)), atol=1e-5)
    assert open_recording(folder, imu_offset=0.5).imu_offset == 0.5
    assert open_recording(folder / "scene.mp4", folder / "imu.csv").imu_stretch == 1.0  # a given IMU has a given clock


def test_a_named_imu_of_a_neon_with_another_video_is_noted(steady, tmp_path):
    """Its clock is that of another video, or of one that was cut."""
    folder = neon_folder(tmp_path / "neon", steady, STEADY[:-1])

    def notes(*given, **clock):
        return [note for note in open_recording(*given, **clock).motion().notes if "world_timestamps" in note]

    (note,) = notes(steady, folder / "imu.csv")
    assert "world_timestamps.csv has 149 rows, but " in note and "steady.mp4 has 150 frames" in note
    assert "the offset that `egodistill check` finds" in note
    assert not notes(steady, folder / "imu.csv", imu_offset=0.5)
    rows = [(k / 100, 0, 0, 9.8, 0, 0, 0) for k in range(600)]
    other = write_table(folder / "other.csv", "time ax ay az gx gy gz".split(), rows)
    assert not notes(steady, other)  # its clock is its own
    whole = neon_folder(tmp_path / "whole", steady, STEADY)
    assert not notes(whole / "scene.mp4", whole / "imu.csv")


def test_a_store_notices_other_times_of_a_neons_frames(steady, tmp_path):
    folder, store = neon_folder(tmp_path / "neon", steady, STEADY), tmp_path / "store"
    segment = data.Segment(id="0", start=0.0, stop=3.0, label="a", **open_recording(folder).record())
    options = {"frame_size": 32, "workers": 1, "progress": False}
    data.prepare([segment], store, **options)
    times = folder / "world_timestamps.csv"
    times.write_text(times.read_text().replace("000\n", "001\n", 1))
    with pytest.raises(DataError, match=r"world_timestamps\.csv: has changed since its clips were prepared"):
        data.prepare([segment], store, **options)


def test_a_neon_recording_without_its_video_is_one_sentence(steady, tmp_path):
    folder = neon_folder(tmp_path / "neon", steady, STEADY[:-1])
    with pytest.raises(DataError, match=r"scene\.mp4: has 150 frames, but world_timestamps\.csv beside it has 149"):
        open_recording(folder)
    shutil.copy(steady, folder / "other.mp4")
    with pytest.raises(DataError, match=r"one scene video in its folder, here: other\.mp4, scene\.mp4"):
        open_recording(folder)
    for name in ("scene.mp4", "other.mp4"):
        (folder / name).unlink()
    with pytest.raises(DataError, match=r"neon: a Neon recording has one scene video in its folder, here: none"):
        open_recording(folder)
    with pytest.raises(VideoError, match="no such file"):
        open_recording(folder / "scene.mp4")
    (folder / "world_timestamps.csv").write_text("nothing\n")
    shutil.copy(steady, folder / "scene.mp4")
    with pytest.raises(DataError, match=r"world_timestamps\.csv: line 1 has no column"):
        open_recording(folder)
    (folder / "imu.csv").unlink()
    assert open_recording(folder / "scene.mp4").imu is None  # a student of frames alone needs no more
    (folder / "extimu ps1.raw").touch()  # as the glasses write it
    assert open_recording(folder / "scene.mp4").imu is None and is_neon(folder)
    with pytest.raises(DataError, match="neon: a Neon recording as the glasses write it; give the folder"):
        open_recording(folder)


@pytest.mark.parametrize(
    ("missing", "found"), [("imu.csv", "world_timestamps.csv"), ("world_timestamps.csv", "imu.csv")]
)
def test_an_incomplete_neon_recording_names_what_is_missing(missing, found, steady, tmp_path):
    folder = neon_folder(tmp_path / "neon", steady, STEADY)
    (folder / missing).unlink()
    said = rf"{found}: of a Pupil Labs Neon, but {missing} is missing beside it; copy it from the folder"
    with pytest.raises(DataError, match=rf"^\S+{said}"):
        open_recording(folder)
    with pytest.raises(IMUError, match=rf"no IMU: .*; \S+{said}"):
        open_recording(folder / "scene.mp4").motion()
    assert re.search(said, check(folder / "scene.mp4", offset=False).notes[-1])
    (folder / found).write_text("time,ax,ay,az,gx,gy,gz\n")
    if found == "imu.csv":  # of another device
        assert unused_tables(folder / "scene.mp4") == ()


def test_samples_in_place_of_their_file_are_refused(steady, kitchen):
    motion = read_imu(kitchen[0].imu)
    for read in (lambda: open_recording(steady, motion), lambda: Recording(steady, motion)):
        with pytest.raises(DataError, match="imu must be a file, or a pair of files; got Imu: give the file with"):
            read()


def test_a_table_of_many_columns_is_found(steady, tmp_path):
    video = shutil.copy(steady, tmp_path / "walk.mp4")
    names = [*(f"a_column_with_a_long_name_{k}" for k in range(60)), "time", "ax", "ay", "az", "gx", "gy", "gz"]
    rows = [",".join(["0"] * 60 + [f"{k / 200}", "0", "0", "9.8", "0", "0", "1"]) for k in range(1400)]
    (tmp_path / "walk.csv").write_text("\n".join([",".join(names), *rows]) + "\n")
    assert open_recording(video).imu == str(tmp_path / "walk.csv")


def test_a_real_neon_recording(sample_data):
    found = open_recording(sample_data / "neon")
    assert found.imu_offset == 0 and found.imu_stretch == pytest.approx(1, abs=1e-4)
    assert found.motion().accel_time[0] == pytest.approx(0.057, abs=1e-3)
    with pytest.raises(CoverageError):
        read_clip(found, 0.0, ClipSpec(imu_samples=422), min_coverage=1.0)
    assert read_clip(found, 1.0, STUDENT)["imu"][:, :3].mean(0) == pytest.approx([0.99, 3.22, 9.45], abs=0.01)


# --- Axes of the IMU


def test_samples_are_turned_while_they_are_read(kitchen):
    """The columns that point left, to the user and up: a small letter changes the sign, of both sensors."""
    plain = kitchen[0].recording
    turned = replace(plain, imu_axes="zXy")
    before, after = plain.motion(), turned.motion()
    for old, new in ((before.accel, after.accel), (before.gyro, after.gyro)):
        np.testing.assert_array_equal(new, np.stack([-old[:, 2], old[:, 0], -old[:, 1]], 1))
    spec = ClipSpec(imu_samples=422)
    old, new = (read_clip(one, 1.0, spec)["imu"] for one in (plain, turned))
    np.testing.assert_allclose(new, old[:, [2, 0, 1, 5, 3, 4]] * np.tile([-1, 1, -1], 2), atol=1e-5)
    assert after.axes == before.axes == "gopro"


def test_axes_with_another_name_are_read_as_they_are_and_only_if_asked_for(kitchen):
    plain = kitchen[0].recording
    glasses = replace(plain, imu_axes="glasses", imu_offset=0.1)
    assert glasses.motion().axes == glasses.motion().inside(3.0).axes == "glasses"
    own = ClipSpec(imu_samples=422, imu_axes="glasses")
    known = read_clip(replace(plain, imu_offset=0.1), 1.1, ClipSpec(imu_samples=422))
    np.testing.assert_array_equal(read_clip(glasses, 1.1, own)["imu"], known["imu"])
    for recording, spec in ((glasses, ClipSpec(imu_samples=422)), (plain, own), (replace(plain, imu_axes="xyZ"), own)):
        with pytest.raises(DataError, match=r"accl.csv and .*gyro.csv: the axes of its samples are .* \(--imu-axes\)"):
            read_clip(recording, 1.0, spec)
    read_clip(glasses, 1.0, ClipSpec(frames=1, size=16))  # no samples are read


@pytest.mark.parametrize("axes", ["XYz", "xXZ", "XY", "up left", "", None, 5])
def test_axes_that_are_neither_a_turn_nor_a_name(axes):
    with pytest.raises(DataError, match=r"imu_axes: (the rotation of axes 'XYz' mirrors|axes must be 'gopro')"):
        Recording("a.mp4", imu_axes=axes)


def test_the_axes_of_a_recording_are_those_given_or_those_of_its_reader(tmp_path, monkeypatch):
    monkeypatch.setattr(home, "READERS", [lambda path: Recording(path, "a.csv", imu_axes="yXZ")])
    assert open_recording("a.mp4").imu_axes == "yXZ"
    assert open_recording("a.mp4", imu_axes="glasses").imu_axes == "glasses"
    assert open_recording("a.mp4", "b.csv").imu_axes == "gopro"
    with pytest.raises(DataError, match="a Recording has its own IMU"):
        open_recording(Recording("a.mp4"), imu_axes="glasses")


# --- cameras and IMU formats of one's own -----------------------------------------------------


@pytest.fixture
def logged(kitchen, tmp_path):
    """A video with a log beside it, of a format of one's own."""
    video = shutil.copy(kitchen[0].video, tmp_path / "walk.mp4")
    mine.write_log(tmp_path / "walk.log", kitchen[0].recording.motion())
    return Path(video)


def equal_samples(one, other):
    for field in ("accel_time", "accel", "gyro_time", "gyro"):
        np.testing.assert_allclose(getattr(one, field), getattr(other, field), atol=1e-9)
    assert one.axes == other.axes


def test_a_file_of_ones_own_format_is_found_beside_its_video(logged, monkeypatch):
    assert open_recording(logged).imu is None
    monkeypatch.setitem(IMU_READERS, ".log", mine.read_log)
    logged.with_suffix(".csv").write_text("time,ax,ay,az,gx,gy,gz\n0,1,2,3,4,5,6\n")
    found = open_recording(logged, imu_offset=0.2)
    assert found.imu == str(logged.with_suffix(".log"))
    equal_samples(found.motion(), mine.read_log(found.imu).on_clock(0.2))
    assert check(logged, offset=False).gyro is not None
    logged.with_suffix(".log").rename(logged.with_suffix(".LOG"))
    assert open_recording(logged).imu == str(logged.with_suffix(".LOG"))


def test_telemetry_of_ones_own_is_read_from_the_video(logged, monkeypatch):
    """And no other file of that kind is taken for its IMU."""
    monkeypatch.setitem(IMU_READERS, ".mp4", lambda path: mine.read_log(path.with_suffix(".log")))
    other = Path(shutil.copy(logged, logged.with_suffix(".mkv")))
    assert open_recording(other).imu is None
    found = check(logged, offset=False)
    assert found.problem is None and found.imu == "telemetry" and found.gyro.coverage == 1


def test_the_clock_and_the_axes_are_applied_once_to_what_ones_own_function_reads(logged, monkeypatch):
    monkeypatch.setitem(IMU_READERS, ".log", mine.read_log)
    log = logged.with_suffix(".log")
    found = Recording(logged, log, imu_offset=0.2, imu_stretch=1.01, imu_axes="XZy")
    expected = mine.read_log(log).in_axes(*read_axes("XZy")).on_clock(0.2, 1.01)
    segment = data.Segment("s", start=0.0, stop=1.0, **found.record())
    for one in (found, pickle.loads(pickle.dumps(found)), replace(found), segment.recording):
        equal_samples(one.motion(), expected)
        assert one == found and one.motion() is one.motion()
    assert read_clip(found, 1.0, ClipSpec(imu_samples=422))["imu"].shape == (422, 6)
    with pytest.raises(DataError, match=r"its samples are 'gopro', those of the clips 'glasses'"):
        read_clip(found, 1.0, ClipSpec(imu_samples=422, imu_axes="glasses"))


def test_ones_own_function_may_count_from_boot_and_is_checked(logged, monkeypatch):
    log = logged.with_suffix(".log")
    monkeypatch.setitem(IMU_READERS, ".log", lambda path: mine.read_log(path).on_clock(500.0))
    found = Recording(logged, log, imu_offset=0.5).motion()
    assert found.accel_time[0] == pytest.approx(0.5) and "runs since boot" in found.notes[-1]
    stamps, accel, gyro = head(100.0)  # so long that it needs an offset, which it has
    monkeypatch.setitem(IMU_READERS, ".log", lambda path: Imu(stamps + 500, accel, stamps + 500, gyro))
    assert Recording(logged, log, imu_offset=-30.0).motion().accel_time[0] == pytest.approx(-30.0)
    rare = Imu(np.arange(9), np.ones((9, 3)), np.arange(9), np.ones((9, 3)))
    monkeypatch.setitem(IMU_READERS, ".mp4", lambda path: rare)
    found = check(Recording(logged), offset=False)  # not taken for a video without IMU
    assert re.match(rf"{logged}: .*<lambda>\(\): its accelerometer samples are 1 s apart", found.problem)


def test_a_segment_names_the_function_that_reads_its_samples(logged, monkeypatch):
    monkeypatch.setitem(IMU_READERS, ".log", mine.read_log)
    fields = mine.wrist(logged).record()
    segment = data.Segment("s", start=0.0, stop=1.0, **fields)
    assert fields["camera"] == segment.record()["camera"] == "mine.read_log"
    assert segment.recording == mine.wrist(logged) and segment.recording.custom_reader is mine.read_log
    assert "camera" not in data.Segment("s", "a.mp4", 0.0, 1.0).record()
    for other in (lambda path: None, None):
        monkeypatch.setitem(IMU_READERS, ".log", other)
        with pytest.raises(
            DataError, match=r"read by your own mine\.read_log, which is not in use here; give the func"
        ):
            _ = segment.recording
    monkeypatch.setitem(IMU_READERS, ".log", Callable())
    with pytest.raises(DataError, match=r"Callable object .*: give a function; a store can only name one"):
        Recording(logged, logged.with_suffix(".log")).record()


class Callable:
    """An object that reads samples."""

    def __call__(self, path):
        return mine.read_log(path)


def test_classes_that_inherit_from_recording_are_refused_with_the_way_out():
    with pytest.raises(DataError, match=r"Camera: a class that inherits from Recording.* in READERS"):

        class Camera(Recording):
            pass


@pytest.mark.parametrize(
    ("reader", "words"),
    [
        (mine.wrong, r"x\.mp4: wrong\(\) fails .*it returns int, not a Recording or None"),
        (mine.broken, r"x\.mp4: broken\(\) fails in line \d+ of mine\.py \(ZeroDivisionError: division by zero\)"),
    ],
)
def test_a_reader_that_fails_is_told(reader, words, monkeypatch):
    monkeypatch.setattr(home, "READERS", [reader, *READERS])
    with pytest.raises(DataError, match=words):
        open_recording("x.mp4")


def test_an_error_of_a_reader_stays(monkeypatch):
    def strict(path):
        raise DataError(f"{path}: not mine")

    monkeypatch.setattr(home, "READERS", [strict])
    with pytest.raises(DataError, match=r"^x\.mp4: not mine$"):
        open_recording("x.mp4")


def test_a_recording_without_a_video_is_its_samples(tmp_path):
    log, pair = write_log(tmp_path / "log.csv", begin=5.0, seconds=6.0, rate=100.0), ("a.csv", "g.csv")
    alone = Recording(None, log)
    assert (alone.video, alone.path, alone.files) == ("", str(log), (str(log),))
    assert (alone.begin, alone.duration) == (5.0, pytest.approx(10.99))
    assert Recording("", pair).path == "a.csv" and Recording("v.mp4", pair).path == "v.mp4"
    assert Recording("", log, imu_offset=2.0, imu_stretch=1.01).duration == pytest.approx(2 + 1.01 * 10.99)
    spec = ClipSpec(imu_samples=50, imu_rate=100.0, seconds=0.5)
    with_video = Recording("no-such.mp4", log)
    window = read_clip(alone, 6.0, spec)["imu"]
    assert np.array_equal(window, with_video.motion().window(6.0, 50, 100.0))
    assert alone.probe() == VideoInfo(alone.duration, 0.0, 0, 0)
    with pytest.raises(VideoError, match=r"log\.csv: the recording has no video, and so no frames"):
        read_clip(alone, 6.0, ClipSpec(frames=1, size=32))
    with pytest.raises(CoverageError):
        read_clip(alone, 0.0, spec)
    for empty in (None, ""):
        with pytest.raises(DataError, match=r"or the file of an IMU without a video as imu \(--imu\)"):
            open_recording(empty)
    (tmp_path / "empty.csv").write_text("time,ax,ay,az,gx,gy,gz\n")
    with pytest.raises(IMUError, match=r"empty\.csv"):
        Recording("", tmp_path / "empty.csv").probe()


def test_samples_before_zero_of_a_recording_without_a_video_are_told(tmp_path):
    recording = Recording(None, write_log(tmp_path / "log.csv", begin=-4.0, seconds=10.0))
    assert recording.begin == 0.0 and recording.duration == pytest.approx(5.995)
    assert "4.0 s lie before zero and are not used; add them to imu_offset (--imu-offset)" in recording.motion().notes
    moved = replace(recording, imu_offset=4.0)
    assert moved.begin == pytest.approx(0.0) and moved.duration == pytest.approx(9.995) and not moved.motion().notes
