"""prepare(): from segments to a store, whatever happens on the way; on files made here and on real ones."""

import contextlib
import dataclasses
import json
import math
import os
import pickle
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import mine
import numpy as np
import pytest
from miniature import group_of
from painted import (
    CLIP,
    KILLED,
    OPTIONS,
    STEADY,
    X264,
    break_packets,
    chirp,
    expected_numbers,
    held,
    number_of,
    paint,
    ramp,
    status_of,
    write_epic_imu,
    write_sound,
    write_video,
)
from waiting import LIMIT, until

from egodistill import DataError, EgoDistillError, EgoDistillOSError, data, recordings
from egodistill.datasets.store_files import StoreFiles
from egodistill.imu import IMU_READERS
from egodistill.recordings import recording as home
from egodistill.recordings.recording import READERS, Recording
from egodistill.support import processes


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


def test_workers_change_nothing(store, kitchen, tmp_path):
    other = data.prepare(kitchen, tmp_path / "s", **OPTIONS | {"workers": 2})
    assert held(other.path) == held(store.path)


@pytest.mark.filterwarnings("ignore::egodistill.datasets.table_checks.TableWarning")
def test_workers_take_many_recordings_in_bundles(kitchen, tmp_path, monkeypatch):
    """Thirty-three copies of one, for two workers; this process does their work."""
    one, segments, sizes = kitchen[0], [], []

    def run(filling):
        while not filling.bundles.empty():
            bundle = filling.bundles.get()
            sizes.append(len(bundle))
            data.fill_bundle(filling.argument, bundle)

    monkeypatch.setattr(data._Filling, "run", run)
    for number in range(33):
        video = tmp_path / f"v{number:02}.mp4"
        shutil.copy(one.video, video)
        segments.append(dataclasses.replace(one, id=f"s{number}", video=str(video)))
    made = data.prepare(segments, tmp_path / "s", **OPTIONS | {"workers": 2})
    frames = made.read("frames_1", slice(0, 33))
    assert made.counts["train"]["ok"] == len(made) == 33 and (frames == frames[0]).all()
    assert sizes == [2] * 16 + [1]


def test_machines_share_the_work_without_knowing_each_other(store, kitchen, tmp_path, monkeypatch):
    """Each reads its own recordings; all together, also begun at once, give what one gives."""
    alone = tmp_path / "alone"
    for rank, rows in ((1, range(8, 12)), (2, range(8, 12)), (0, range(12))):  # two shards: two recordings, and one
        part = data.prepare(kitchen, alone, **OPTIONS, rank=rank, world_size=3)
        assert np.flatnonzero(status_of(alone)).tolist() == [*rows]
        assert sum(n["ok"] for n in part.counts.values()) == len(rows) == len(part)
        assert part.counts["train"]["missing"] == 12 - len(rows)
    assert held(alone) == held(store.path) and len(part) == 12

    plain = [dataclasses.astuple(s) for s in kitchen]
    root, scripts = str(Path(data.__file__).parent), []
    for rank in (0, 1):
        given = tmp_path / f"given-{rank}"
        given.write_bytes(pickle.dumps((plain, OPTIONS | {"rank": rank, "world_size": 2})))
        environment = os.environ | {"RANK": f"{rank}", "WORLD_SIZE": "2"}
        command = [sys.executable, "-c", KILLED, root, given, tmp_path / "both"]
        scripts.append(subprocess.Popen(command, env=environment))
    assert [script.wait(LIMIT) for script in scripts] == [0, 0]
    assert held(tmp_path / "both") == held(store.path)
    with pytest.raises(data.DataError, match="rank 2 is not one of the 2"):
        data.prepare(kitchen, alone, **OPTIONS, rank=2, world_size=2)


def test_no_share_is_taken_unasked(kitchen, tmp_path, monkeypatch):
    """The variables of torchrun are there in many a shell and job; a whole store is what was asked for."""
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "3")
    assert len(data.prepare(kitchen, tmp_path / "s", **OPTIONS)) == 12


def test_failed_clips_are_tried_again_by_whose_they_are(kitchen, tmp_path, monkeypatch):
    broken = [replace(s, video=str(tmp_path / "no.mp4")) if "P30" in s.id or "P01" in s.id else s for s in kitchen]
    with pytest.raises(data.DataError, match="max_bad"):
        data.prepare(broken, tmp_path / "s", **OPTIONS)
    tried = []
    monkeypatch.setattr(data, "fill", lambda store, rows: tried.append(rows))
    with pytest.warns(UserWarning, match="could not be prepared"):
        data.prepare(broken, tmp_path / "s", **OPTIONS, retry_failed=True, max_bad=1.0, rank=0, world_size=3)
    status = status_of(tmp_path / "s")
    assert tried == [[0, 1, 2, 3]] and status.tolist() == 4 * [0] + 4 * [1] + 4 * [2]


def lacking_imu(kitchen, folder):
    """Segments of three recordings, and a function that writes the IMU of the second beside its video."""
    video = Path(shutil.copy(kitchen[3].video, folder / "walk.mp4"))
    segments = [replace(s, video=str(video), imu=None) if "P02" in s.id else s for s in kitchen]
    motion = data.read_imu(kitchen[3].imu)
    gyro = [np.interp(motion.accel_time, motion.gyro_time, axis) for axis in motion.gyro.T]
    rows = np.column_stack([motion.accel_time, motion.accel, *gyro])

    def complete():
        table = video.with_suffix(".csv")
        np.savetxt(table, rows, "%.6f", delimiter=",", header="time,ax,ay,az,gx,gy,gz", comments="")
        return str(table)

    return segments, complete


@pytest.mark.filterwarnings("ignore:.*could not be prepared")
def test_an_imu_table_that_was_missing_is_read_when_it_is_there(kitchen, tmp_path):
    """Nothing else is decoded again, and the store is the one that there would have been."""
    segments, complete = lacking_imu(kitchen, tmp_path)
    options = OPTIONS | {"max_bad": 0.9}
    (failed,) = {f["reason"] for f in data.prepare(segments, tmp_path / "s", **options).failures}
    assert "walk.mp4: no IMU" in failed and "give a table" in failed
    table = complete()
    written, fill_one = [], data.fill
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(data, "fill", lambda store, rows: written.extend(rows) or fill_one(store, rows))
        again = data.prepare(segments, tmp_path / "s", **options)
    assert written == [4, 5, 6, 7] and not again.failures
    fresh = data.prepare(segments, tmp_path / "fresh", **options)
    assert held(again.path) == held(fresh.path)
    assert list(StoreFiles(again.path).segments) == list(StoreFiles(fresh.path).segments)
    assert StoreFiles(again.path).segments[4].imu == table
    assert len(data.prepare(segments, tmp_path / "s", **options)) == 12  # as often as one likes


def test_machines_that_retry_at_once_agree_on_the_recordings(kitchen, tmp_path):
    segments, complete = lacking_imu(kitchen, tmp_path)
    segments = [replace(s, imu=s.imu or str(Path(s.video).with_suffix(".csv"))) for s in segments]
    with pytest.warns(UserWarning, match="4 of 12"):
        data.prepare(segments, tmp_path / "s", **OPTIONS, max_bad=0.9)
    complete()
    plain, scripts = [dataclasses.astuple(s) for s in segments], []
    for rank in (0, 1):
        given = tmp_path / f"given-{rank}"
        given.write_bytes(
            pickle.dumps((plain, OPTIONS | {"rank": rank, "world_size": 2, "retry_failed": True, "max_bad": 0.9}))
        )
        command = [sys.executable, "-c", KILLED, str(Path(data.__file__).parent), given, tmp_path / "s"]
        scripts.append(subprocess.Popen(command))
    assert [script.wait(LIMIT) for script in scripts] == [0, 0]
    fresh = data.prepare(segments, tmp_path / "fresh", **OPTIONS)
    assert held(tmp_path / "s") == held(fresh.path)


def test_workers_need_no_main_guard(kitchen, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(f"""import pickle, sys
sys.path.insert(0, {str(Path(data.__file__).parent)!r})
from egodistill import data
segments = [data.Segment(*fields) for fields in pickle.load(open(sys.argv[1], "rb"))]
store = data.prepare(segments, sys.argv[2], workers=2, frame_size=16)
print(len(store), "torch" in sys.modules)
""")
    plain = [dataclasses.astuple(s) for s in kitchen]
    (tmp_path / "segments").write_bytes(pickle.dumps(plain))
    command = [sys.executable, script, tmp_path / "segments", tmp_path / "out"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT)
    assert done.stdout == "12 False\n", done.stderr
    assert "12/12 clips" in done.stderr and "clips/s" in done.stderr


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
        process = subprocess.Popen(command, start_new_session=True)
        while process.poll() is None:
            if (out / "store.json").exists() and status_of(out).sum() >= wanted:
                break
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        process.wait()
        until(lambda: not group_of(process.pid))  # noqa: B023  # workers notice that their parent is gone
        done = status_of(out) == 1
        in_the_middle += not done.all()
        for name in ("frames_16", "ends", "clip", "imu"):
            killed = data.ClipStore(out, unfinished=True).read(name, slice(None))
            np.testing.assert_array_equal(killed, data.ClipStore(whole).read(name, done))
        if not done.all():
            with pytest.warns(UserWarning, match="not prepared yet"):
                assert len(data.ClipStore(out)) == np.count_nonzero(done)
    assert in_the_middle, "the runs were over before they could be killed"
    data.prepare(segments, out, **options)
    assert held(out) == held(whole)


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
    command = [sys.executable, "-W", "ignore", "-c", INTERRUPTED, KILLED, str(root), tmp_path / "given", out]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)
    while process.poll() is None:
        if (out / "store.json").exists() and status_of(out).sum() >= clips:
            if clips or len(group_of(process.pid)) > 1:
                break
        time.sleep(0.002)
    for worker in set(group_of(process.pid)) - {process.pid}:  # It may reach them long before the parent.
        with contextlib.suppress(ProcessLookupError):
            os.kill(worker, signal.SIGINT)
    time.sleep(0.15 * (clips == 0))
    os.killpg(process.pid, signal.SIGINT)
    _, said = process.communicate(timeout=LIMIT)
    assert (process.returncode, said) == (130, "")
    until(lambda: not group_of(process.pid))
    # 160 clips a recording: none was read to its end first.
    assert 160 * (3 - workers) < np.count_nonzero(status_of(out) == 0) <= 480 - clips
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
    until(lambda: (out / "store.json").exists() and status_of(out).any())
    assert process.poll() is None
    assert len(group_of(process.pid)) > 1
    process.kill()
    process.wait()
    until(lambda: not group_of(process.pid))
    # 1,600 clips a recording: none was read to its end first.
    missing = status_of(out).reshape(400, 3, 4) == 0
    assert missing.any((0, 2)).all()


def test_rerun_reads_nothing_that_is_there(store, kitchen, monkeypatch):
    def forbidden(*_):
        raise AssertionError("decoded again")

    monkeypatch.setattr(data, "fill", forbidden)
    assert len(data.prepare(kitchen, store.path, **OPTIONS)) == 12


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"min_coverage": 0}, "min_coverage .* must be above 0 and at most 1; got 0$"),
        ({"min_coverage": 95}, "min_coverage .* must be .* got 95"),
        ({"max_bad": 10}, "max_bad .* must be from 0 to 1; got 10"),
        ({"max_gap": 0.0}, "max_gap .* must be above 0 s; got 0.0"),
        ({"clip_frames": 0}, "clip_frames .* must be a whole number, at least 1; got 0"),
        ({"clip_frames": [8]}, r"clip_frames .* must be a whole number, at least 1; got \[8\]"),
        ({"frame_size": (64, 64)}, "frame_size .* must be a whole number, at least 1"),
        ({"num_frames": (1, 0)}, r"num_frames .* must be a whole number, at least 1; got \(1, 0\)"),
        ({"num_frames": "1"}, "num_frames .* must be a whole number, at least 1; got '1'"),
        ({"workers": 0}, "workers .* must be a whole number, at least 1; got 0"),
        ({"imu": "walk.csv"}, r"imu must be True or False; got 'walk.csv'.*Segment\(imu="),
        ({"ends": 1}, "ends must be True or False; got 1"),
    ],
)
def test_settings_out_of_range(kitchen, tmp_path, change, words):
    with pytest.raises(data.DataError, match=words):
        data.prepare(kitchen, tmp_path / "s", **OPTIONS | change)
    assert not (tmp_path / "s").exists()


def test_a_file_is_no_folder_for_a_store(kitchen, tmp_path):
    (tmp_path / "s").write_text("mine")
    with pytest.raises(data.DataError, match=r"s: this is a file, but a store is a folder; give another name"):
        data.prepare(kitchen, tmp_path / "s", **OPTIONS)


def test_labels_outside_the_class_names(kitchen, tmp_path):
    with pytest.raises(
        data.DataError, match=r"\.MP4: the segment at \d\.\d+ s has the label 'take', .* the 2 class_names"
    ):
        data.prepare(kitchen, tmp_path / "s", **OPTIONS, class_names=["cut", "wash"])
    assert not (tmp_path / "s").exists()
    names = ["zzz", "wash", "take", "cut"]
    few = {"num_frames": (), "ends": False, "workers": 1, "progress": False}
    store = data.prepare(kitchen, tmp_path / "s", **few, class_names=names)
    assert store.class_names == names and store.labels.tolist()[:4] == [1, 3, 3, -1]
    assert store.names == ["imu"] and len(store) == 12


@pytest.mark.parametrize("workers", [1, 2])
def test_bad_clips_are_reported_and_the_rest_survives(kitchen, tmp_path, workers):
    bad = tmp_path / "bad.mp4"
    bad.write_bytes(Path(kitchen[3].video).read_bytes()[:3000])
    segments = [replace(s, video=str(bad)) if "P02" in s.id else s for s in kitchen]
    segments[0] = replace(segments[0], start=10.0, stop=11.0)  # behind the video's end
    options = OPTIONS | {"workers": workers}
    with pytest.raises(
        data.DataError,
        match=r"5 of 12 clips \(41.7%\).*max_bad .*10.0%.*again with retry_failed=True .*start or stop.*another folder",
    ):
        data.prepare(segments, tmp_path / "s", **options)
    with pytest.warns(UserWarning, match=r"5 of 12 clips \(41.7%\) could not be prepared"):
        store = data.prepare(segments, tmp_path / "s", **options, max_bad=0.42)
    assert len(store) == 7 and store.segments.tolist() == [1, 1, 2, 6, 7, 7, 8]
    reasons = {failure["id"]: failure["reason"] for failure in store.failures}
    assert re.search("ends at 5.99. s, before the clip starts", reasons["P01_101_0"])
    assert str(bad) in reasons["P02_102_1"]
    lines = (tmp_path / "s/failures.jsonl").read_text().splitlines()
    assert len(lines) == 5  # a failed clip is not tried again unasked
    shutil.copy(kitchen[3].video, bad)
    with pytest.warns(UserWarning, match="1 of 12 clips"):
        store = data.prepare(segments, tmp_path / "s", **options, retry_failed=True)
    assert len(store) == 11
    with pytest.warns(UserWarning, match="1 of 12 clips"):
        fresh = data.prepare(segments, tmp_path / "fresh", **options)
    assert store.clips == fresh.clips  # the length of a broken video was unknown when its clips were placed
    for name in store.names:
        np.testing.assert_array_equal(store.read(name, range(11)), fresh.read(name, range(11)))


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


def test_a_hole_in_the_recording_costs_the_clips_in_it(tmp_path):
    times = np.concatenate([STEADY[:75], STEADY[75:] + 20])  # no frame from 3 to 23 s
    video = write_video(tmp_path / "hole.mkv", times, bf=2, g=10, crf=10)
    segments = [data.Segment(f"{t}", video, t, t + 2, "x") for t in (0.5, 2.5, 8, 22.2, 24)]
    options = OPTIONS | {"imu": False, "ends": False, "max_bad": 0.9}
    with pytest.warns(UserWarning, match="3 of 5"):
        store = data.prepare(segments, tmp_path / "s", **options)
    assert [clip["id"] for clip in store.clips] == ["0.5", "24"]
    assert all("none begins between 2.960 and 23.000 s" in failure["reason"] for failure in store.failures)
    patient = data.prepare(segments, tmp_path / "t", **options, max_hold=30)
    assert [number_of(p) for p in patient.read("frames_4", 2)] == [74] * 4
    with pytest.raises(data.DataError, match=r"max_hold was 30 and is now 1\.0"):
        data.prepare(segments, tmp_path / "t", **options)


@pytest.mark.parametrize("which", ["video", "imu"])
def test_a_file_that_has_changed_is_noticed(kitchen, tmp_path, which):
    """Clips of two files are never in one store as if they came from one."""
    segments = []
    for k, segment in enumerate((kitchen[1], kitchen[4])):  # of two recordings
        files = [Path(shutil.copy(file, tmp_path / f"{k}-{Path(file).name}")) for file in (segment.video, *segment.imu)]
        segments.append(replace(segment, video=str(files[0]), imu=(str(files[1]), str(files[2])), label="x"))
    options = OPTIONS | {"frame_size": 32}
    store = data.prepare(segments, tmp_path / "s", **options)
    store.add("t.logits", (2,), np.float32)
    store.write("t.logits", np.arange(len(store)), np.ones((len(store), 2)))
    own = np.array([clip["video"] == segments[0].video for clip in store.clips])
    before = store.read("frames_1", own), store.read("imu", own)
    assert data.prepare(segments, tmp_path / "s", **options).done("t.logits").all()
    changed = Path(segments[0].video if which == "video" else segments[0].imu[1])
    if which == "video":
        write_video(changed, STEADY, pictures=[np.full((48, 80, 3), k, np.uint8) for k in range(150)], **X264)
    else:
        changed.write_text(re.sub(r",(\d)", r",-\1", changed.read_text()))
    for _ in range(2):
        with pytest.raises(data.DataError, match=rf"{changed.name}: has changed since its clips.*--retry-failed"):
            data.prepare(segments, tmp_path / "s", **options)
    again = data.prepare(segments, tmp_path / "s", **options, retry_failed=True)
    assert again.done("t.logits").tolist() == (~own).tolist()  # the teacher has not seen the new clips
    now = again.read("frames_1", own), again.read("imu", own)
    assert [np.array_equal(*pair) for pair in zip(before, now, strict=True)] == [which == "imu", which == "video"]
    changed.unlink()  # a store outlives its files
    assert len(data.prepare(segments, tmp_path / "s", **options)) == len(store)


def test_a_changed_file_may_have_another_clock(kitchen, tmp_path):
    """A clock is measured from the file; a clip that stays keeps its own."""
    segments = []
    for k, segment in enumerate((kitchen[1], kitchen[4])):
        imu = tuple(shutil.copy(file, tmp_path / f"{k}-{Path(file).name}") for file in segment.imu)
        segments.append(replace(segment, imu=imu, imu_offset=0.1, label="x"))
    options = OPTIONS | {"frame_size": 32}
    data.prepare(segments, tmp_path / "s", **options)
    gyro = Path(segments[0].imu[1])
    gyro.write_text(re.sub(r",(\d)", r",-\1", gyro.read_text()))
    moved = [replace(segments[0], imu_offset=0.2), segments[1]]
    with pytest.raises(data.DataError, match=r"has changed since its clips were prepared.*--retry-failed"):
        data.prepare(moved, tmp_path / "s", **options)
    again = data.prepare(moved, tmp_path / "s", **options, retry_failed=True)
    assert held(again.path) == held(data.prepare(moved, tmp_path / "fresh", **options).path)


def test_prepare_with_other_settings(kitchen, tmp_path):
    """Sampling rule, IMU clock and coverage reach the store."""
    video = write_sound(tmp_path / "a.mp4", chirp(np.arange(6 * 16000) / 16000), 16000, pictures=180)
    imu = write_epic_imu(tmp_path, "x", 7)
    segments = [
        data.Segment("s", video, 1.5, 3.0, "x", imu, imu_offset=0.5),
        data.Segment("late", video, 5.0, 5.9, "x", imu, imu_offset=-2.5),
    ]
    options = OPTIONS | {"num_frames": 2, "max_bad": 0.5}
    with pytest.warns(UserWarning, match="1 of 2 clips"):
        store = data.prepare(segments, tmp_path / "s", **options)
    assert len(store) == 1 and "covers" in store.failures[0]["reason"]
    start = store.clips[0]["start"]
    grid = start + np.arange(422) / 198 - 0.5  # what was stamped half a second before
    np.testing.assert_allclose(store.read("imu", 0)[:, :3], ramp(grid, 1, 9.8), atol=1e-4)
    assert len(data.prepare(segments, tmp_path / "low", **options | {"min_coverage": 0.05})) == 2

    first = data.prepare(kitchen[:1], tmp_path / "f", **OPTIONS | {"sampling": "first"})
    starts = first.clips[0]["start"] + (np.arange(4) + 0.5) / 30
    assert [number_of(p) for p in first.read("frames_4_first", 0)] == expected_numbers(STEADY, starts)
    drawn = [
        data.prepare(kitchen[:1], tmp_path / f"r{k}", **OPTIONS | {"sampling": "random", "seed": k % 2})
        for k in range(3)
    ]
    frames = [s.read("frames_4_random", 0) for s in drawn]
    assert (frames[0] == frames[2]).all() and (frames[0] != frames[1]).any()
    with pytest.raises(data.DataError, match=r"sampling was \['first'\] and is now \['uniform'\]"):
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


def test_a_clip_cut_out_of_a_long_video_finds_its_head_motion(tmp_path):
    """As Ego4D's clips have it: the IMU's stamps are those of the video, far beyond the clip's own length."""
    video = write_video(tmp_path / "clip.mp4", STEADY, **X264)
    imu = write_epic_imu(tmp_path, "long", 60, slope=0.1)
    segment = data.Segment("s", video, 1.0, 2.0, "x", imu, imu_offset=-40.0)
    store = data.prepare([segment], tmp_path / "s", **OPTIONS)
    grid = store.clips[0]["start"] + 40 + np.arange(422) / 198
    np.testing.assert_allclose(store.read("imu", 0)[:, :3], ramp(grid, 0.1, 9.8), atol=1e-3)


def test_notes_of_the_imu_stay_with_the_store(kitchen, tmp_path):
    imu = write_epic_imu(tmp_path, "x", 7)
    lines = Path(imu[0]).read_text().splitlines()
    Path(imu[0]).write_text("\n".join([lines[0], *lines[:0:-1]]) + "\n")
    lines = Path(imu[1]).read_text().splitlines()
    lines[1:] = [",".join([line.split(",")[0], "0,0,0"]) for line in lines[1:]]
    Path(imu[1]).write_text("\n".join(lines))
    segment = replace(kitchen[0], imu=imu)
    notes = data.prepare([segment], tmp_path / "s", **OPTIONS).notes
    assert list(notes) == [" and ".join(imu)]
    assert "x-accl.csv: the rows are not sorted by time" in notes[" and ".join(imu)]
    assert "the gyroscope is zero from -1.0 to 7.0 s" in notes[" and ".join(imu)]


MEASURED = """
import re, sys
from egodistill import data
segments = [data.Segment(f"s{k}", sys.argv[1], 2 * k, 2 * k + 2, "x") for k in range(int(sys.argv[2]))]
store = data.prepare(segments, sys.argv[3], frame_size=32, imu=False, ends=False, workers=1, progress=False)
print(len(store), int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1]) // 1024)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak memory from /proc")
def test_memory_does_not_grow_with_the_recording(tmp_path):
    """Seven times the video and the segments: the peak stays, where 2,100 held pictures would be 0.5 GB."""
    noise = np.random.default_rng(0).integers(0, 256, (10, 240, 320, 3)).astype(np.uint8)
    peaks = []
    for k, count in enumerate((300, 2100)):
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
    store = data.prepare([segment], tmp_path / "s", **OPTIONS, max_hold=1.5)
    assert store.clips[0]["start"] == 0
    assert [number_of(p) for p in store.read("frames_4", 0)] == [6, 20, 24, 24]
    with pytest.raises(data.DataError, match=r"but the video at \d\.\d+ s, over max_hold .*, 1 s, before"):
        data.prepare([segment], tmp_path / "t", **OPTIONS)


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
    status = status_of(tmp_path / "s")
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
def test_a_crash_on_windows_costs_one_recording(kitchen, tmp_path, monkeypatch, code=0xC0000005):
    """The first recording's worker crashes, the others do their work. None of them hears of Ctrl-C."""
    fake = tmp_path / "python"
    fake.write_text(f"""#!{sys.executable}
import io, sys
sys.path.insert(0, {str(Path(data.__file__).parent)!r})
from egodistill.support import processes
line = sys.stdin.readline()
if line.startswith("[[0, "):
    sys.exit(77)
sys.stdin = io.StringIO(line)
processes.serve(*sys.argv[4:])
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
    assert {code, 0xC0000094, 0xC000001D, 0xC0000374, 0xC0000409, 3} <= processes.CRASHES


@pytest.mark.parametrize("workers", [1, 2])
def test_full_disk_while_a_failure_is_noted(kitchen, tmp_path, full_disk, workers, capfd):
    """Half a line is written of it. The clip stays missing, and is noted when there is room again."""
    segments = [replace(s, video=str(tmp_path / f"{s.id[:7]}.mp4")) for s in kitchen]
    options = OPTIONS | {"workers": workers}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(data, "fill", lambda *_: None)
        data.prepare(segments, tmp_path / "s", **OPTIONS)
    for shard in (0, 1):
        StoreFiles(tmp_path / "s").begin(shard)
    (tmp_path / "s" / "failures.jsonl").write_bytes(bytes(19_399) + b"\n")
    words = "failures.jsonl: cannot be written: File too large" if workers == 1 else "ended with code 1 .*output above"
    with full_disk(20_000), pytest.raises((data.DataError, EgoDistillOSError), match=words):
        data.prepare(segments, tmp_path / "s", **options)
    said = capfd.readouterr().err
    assert "Traceback" not in said and ("failures.jsonl: cannot be written" in said) is (workers > 1)
    assert (tmp_path / "s" / "failures.jsonl").stat().st_size == 20_000
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


def test_workers_take_nothing_from_the_current_folder(store, kitchen, tmp_path):
    """It may have files that are named as ours are, or as the standard library's."""
    for name in ("data", "queue", "egodistill", "files", "signal"):
        (tmp_path / f"{name}.py").write_text("raise ImportError('not this one')")
    given = [dataclasses.astuple(segment) for segment in kitchen], OPTIONS | {"workers": 2}
    (tmp_path / "given").write_bytes(pickle.dumps(given))
    root = str(Path(data.__file__).parent)
    command = [sys.executable, "-c", f"import sys; sys.path[0] = {root!r}\n{KILLED}", root, "given", "s"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=LIMIT)
    assert done.returncode == 0, done.stderr
    assert held(tmp_path / "s") == held(store.path)


SERVING = """
import re, sys
sys.path.insert(0, sys.argv[1])
from egodistill.support import processes
processes.serve("data.fill_bundle", sys.argv[2])
unwanted = {"torch", "torchvision", "egodistill.recordings.checks", "egodistill.recordings.offset"}
loaded = sorted(unwanted & set(sys.modules))
print(loaded, int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1]) // 1024, flush=True)
sys.stdin.readline()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak memory from /proc")
def test_a_worker_is_small(kitchen, tmp_path):
    store = data.prepare(kitchen, tmp_path / "s", **OPTIONS, rank=0, world_size=3)
    argument = json.dumps([str(store.path), {}])
    command = [sys.executable, "-c", SERVING, str(Path(data.__file__).parent), argument]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    print("[[8, 9, 10, 11]]", file=process.stdin, flush=True)
    loaded, _, peak = process.stdout.readline().rpartition(" ")
    process.communicate("\n", timeout=LIMIT)
    assert loaded == "[]" and int(peak) < 100  # MB, of which half are the libraries of PyAV and numpy
    assert len(data.ClipStore(store.path, unfinished=True)) == 12


def test_readers_find_the_imu_of_segments_without_one(kitchen, tmp_path, monkeypatch):
    """Also for the processes of `prepare()`, which do not know a reader of the caller's."""
    video = shutil.copy(kitchen[0].video, tmp_path / "walk.mp4")
    tables = kitchen[0].imu
    own = Recording(str(video), tables, imu_offset=0.1, imu_stretch=1.01, wearer="me")
    monkeypatch.setattr(home, "READERS", [lambda path: own if path.name == "walk.mp4" else None])
    segments = [data.Segment(f"s{t}", video, t, t + CLIP, "x", imu_offset=0.2) for t in (0.5, 2.0)]
    store = data.prepare(segments, tmp_path / "s", frame_size=40, workers=2, progress=False)
    walk = Recording(str(video), tables, imu_offset=0.2 + 0.1, imu_stretch=1.01, wearer="me")
    assert store.wearers == ["me", "me"]
    for row, clip in enumerate(store.clips):
        np.testing.assert_array_equal(store.read("imu", [row])[0], walk.motion().window(clip["start"]))


def segment_of(store):
    return StoreFiles(store.path).segments[0]


def test_everything_that_a_reader_says_of_a_recording_survives(kitchen, tmp_path, monkeypatch):
    """Of a segment, and of a table of recordings; without IMU, the wearer."""
    video, gyro = shutil.copy(kitchen[0].video, tmp_path / "walk.mp4"), kitchen[0].imu[1]
    own = Recording(video, gyro, 0.1, 1.01, wearer="me", zero_accel=True, imu_axes="glasses")
    assert all(getattr(own, one.name) != one.default for one in dataclasses.fields(own))
    monkeypatch.setattr(home, "READERS", [lambda path: own if path.name == "walk.mp4" else None])
    (tmp_path / "list.csv").write_text("video,split\nwalk.mp4,train\n")
    for name, segments in (
        ("named", [data.Segment("s", video, 0.5, 0.5 + CLIP, "x")]),
        ("listed", data.read_recordings(tmp_path / "list.csv")[:1]),
    ):
        store = data.prepare(segments, tmp_path / name, frame_size=40, workers=1, progress=False)
        assert segment_of(store).recording == own
        expected = own.motion().window(store.clips[0]["start"])
        assert not expected[:, :3].any() and expected[:, 3:].any()
        np.testing.assert_array_equal(store.read("imu", [0])[0], expected)
    blind = [data.Segment("s", video, 0.5, 0.5 + CLIP, "x")]
    store = data.prepare(blind, tmp_path / "blind", frame_size=40, imu=False, progress=False)
    assert store.wearers == ["me"] and segment_of(store).imu is None


@pytest.fixture
def logged(kitchen, tmp_path):
    """Segments of two videos with logs beside them, of a format of one's own."""
    segments = []
    for name, segment in (("one", kitchen[0]), ("two", kitchen[3])):
        video = shutil.copy(segment.video, tmp_path / f"{name}.mp4")
        mine.write_log(tmp_path / f"{name}.log", segment.recording.motion())
        segments += [data.Segment(f"{name} {t}", video, t, t + CLIP, "x") for t in (0.5, 2.0)]
    return segments


def use_function(monkeypatch):
    monkeypatch.setitem(IMU_READERS, ".log", mine.read_log)


def use_camera(monkeypatch):
    use_function(monkeypatch)
    monkeypatch.setattr(home, "READERS", [mine.wrist, *READERS])


@pytest.mark.parametrize(("use", "offset"), [(use_camera, 0.25), (use_function, 0.0)])
@pytest.mark.parametrize("workers", [1, 2])
def test_what_is_ones_own_reads_recordings_in_all_processes(logged, tmp_path, monkeypatch, use, offset, workers):
    """Nothing else goes on with its store, which needs none of it to be read."""
    options = {"num_frames": (), "frame_size": 40, "ends": False, "progress": False, "workers": workers}
    with monkeypatch.context() as patch:
        use(patch)
        store = data.prepare(logged, tmp_path / "s", **options)
        assert len(data.prepare(logged, tmp_path / "s", **options)) == 4
    for row, clip in enumerate(store.clips):
        wanted = mine.read_log(Path(clip["video"]).with_suffix(".log")).on_clock(offset).window(clip["start"])
        np.testing.assert_allclose(store.read("imu", [row])[0], wanted, atol=1e-6)
    again = data.ClipStore(tmp_path / "s")
    assert len(again) == 4 and np.array_equal(again.read("imu", [0]), store.read("imu", [0]))
    with pytest.raises(DataError, match=r"segment 0 \(.*\)\.camera was 'mine\.\w+.*' and is now None"):
        data.prepare(logged, tmp_path / "s", **options)


def test_clips_that_failed_without_ones_own_reader_are_read_with_it(logged, tmp_path, monkeypatch):
    named = [replace(one, imu=str(Path(one.video).with_suffix(".log"))) for one in logged]
    options = {"num_frames": (), "frame_size": 40, "ends": False, "progress": False, "workers": 1}
    with pytest.raises(DataError, match=r"4 of 4 clips .*one\.log: a text file, not a video with telemetry"):
        data.prepare(named, tmp_path / "s", **options)
    use_function(monkeypatch)
    assert len(data.prepare(named, tmp_path / "s", **options)) == 4


def test_other_processes_are_not_started_without_what_is_ones_own(logged, tmp_path, monkeypatch):
    """A function of a notebook cannot be imported there; in one process it is used."""
    monkeypatch.setitem(IMU_READERS, ".log", lambda path: mine.read_log(path))
    options = {"num_frames": (), "frame_size": 40, "ends": False, "progress": False}
    with pytest.raises(EgoDistillError, match=r"<lambda>: other processes cannot import it from .* give workers=1"):
        data.prepare(logged, tmp_path / "s", **options, workers=2)
    assert len(data.prepare(logged, tmp_path / "s", **options, workers=1)) == 4
    blind = data.read_recordings(tmp_path)
    assert "<lambda>" in blind[0].camera
    assert len(data.prepare(blind, tmp_path / "s2", **options | {"num_frames": 1}, imu=False, workers=2)) == len(blind)


def test_a_reader_that_fails_is_asked_again_in_other_processes(logged, tmp_path, monkeypatch):
    """No other reader takes its place there."""
    monkeypatch.setattr(home, "READERS", [mine.broken, *READERS])
    for one in logged:
        Path(one.video).with_suffix(".csv").write_text("time,ax,ay,az,gx,gy,gz\n")
    with pytest.raises(DataError, match=r"4 of 4 clips .*one\.mp4: broken\(\) fails in line \d+ of mine\.py"):
        data.prepare(logged, tmp_path / "s", num_frames=(), ends=False, workers=2, progress=False)


def test_a_recording_that_cannot_be_opened_costs_its_clips_only(kitchen, tmp_path):
    (tmp_path / "neon").mkdir()
    for name in ("imu.csv", "world_timestamps.csv"):
        (tmp_path / "neon" / name).write_text("timestamp [ns]\n1\n2\n")
    scene = tmp_path / "neon" / "scene.mp4"
    scene.write_bytes(Path(kitchen[0].video).read_bytes()[:3000])
    segments = [*kitchen[:4], data.Segment("broken", scene, 0, 1, "cut")]
    with pytest.warns(UserWarning, match=r"1 of 6 clips .*scene\.mp4: cannot be opened"):
        store = data.prepare(segments, tmp_path / "s", **OPTIONS, max_bad=0.2)
    assert len(store) == 5
    shutil.copy(kitchen[0].video, scene)  # readable, but not the video of these tables
    with pytest.warns(UserWarning, match=r"1 of 6 clips .*scene\.mp4: has 150 frames, but world_timestamps\.csv"):
        data.prepare(segments, tmp_path / "t", **OPTIONS, max_bad=0.2)


def test_a_path_is_not_a_list_of_segments(tmp_path):
    with pytest.raises(data.DataError, match=r"segments is the path 'a\.csv'; read it with read_csv"):
        data.prepare("a.csv", tmp_path / "s")
    with pytest.raises(data.DataError, match=r"segments has 'a\.mp4', which is no data\.Segment"):
        data.prepare([data.Segment("1", "a.mp4", 0, 1, "x"), "a.mp4"], tmp_path / "s")
    with pytest.raises(data.DataError, match="segments has None"):
        data.prepare([None], tmp_path / "s")


@pytest.mark.parametrize("given", [["a.mp4", "b.mp4"], np.zeros((2, 3)), 3, None])
def test_a_recording_is_one_video(given):
    for use in (data.Recording, data.open_recording, recordings.check):
        with pytest.raises(data.DataError, match=f"the path of one file, .*; got {type(given).__name__}"):
            use(given)
    with pytest.raises(data.IMUError, match="one file or a pair"):
        data.read_imu(given[:1] if isinstance(given, list) else given)


# --- Values that are not the usual ones


def test_the_clock_of_a_segment_reaches_the_store(kitchen, tmp_path):
    """Offset and stretch, with segments of one video that have different clocks."""
    clocks = [(0.3, 1.02), (0.0, 0.97), (-0.2, 1.0)]
    segments = [
        replace(kitchen[3], id=str(k), start=2.0, stop=3.0, imu_offset=offset, imu_stretch=stretch)
        for k, (offset, stretch) in enumerate(clocks)
    ]
    store = data.prepare(segments, tmp_path / "s", num_frames=(), ends=False, workers=1, progress=False)
    for row, (offset, stretch) in enumerate(clocks):
        stamps = (store.clips[row]["start"] + np.arange(422) / 198 - offset) / stretch
        np.testing.assert_allclose(store.read("imu", row)[:, :3], ramp(stamps, 2, 9.8), atol=1e-4)
        np.testing.assert_allclose(store.read("imu", row)[:, 3:], ramp(stamps, -2), atol=1e-4)


def test_key_frames_and_seeds_reach_every_array(kitchen, tmp_path):
    options = {"num_frames": 2, "frame_size": 24, "sampling": ["random", "uniform"], "seed": 5, "exact": False}
    store = data.prepare(
        kitchen[3:4], tmp_path / "s", clip_frames=3, clip_size=16, workers=1, progress=False, **options
    )
    (clip,) = store.clips
    video, start, times = clip["video"], clip["start"], {}
    times["frames_2"] = start + (np.arange(2) + 0.5) / 2 * CLIP
    times["frames_2_random"] = data.clip_times(start, 2, sampling="random", rng=np.random.default_rng([5, 0]))
    times["ends"] = [start, start + CLIP]
    for name, asked in times.items():
        expected = data.read_frames(video, asked, 24, exact=False)
        np.testing.assert_array_equal(store.read(name, 0), expected, err_msg=name)
        assert store.specs[name].exact is False
    # Teachers always see exact frames, of the centre square, at evenly spaced times, whatever students see.
    middle = start + (np.arange(3) + 0.5) / 3 * CLIP
    np.testing.assert_array_equal(store.read("clip", 0), data.read_frames(video, middle, 16, crop=True))


def test_a_tolerance_reaches_every_array_but_the_teachers_frames(kitchen, tmp_path):
    options = {"num_frames": 4, "frame_size": 40, "clip_frames": 3, "clip_size": 16, "workers": 1, "progress": False}
    store = data.prepare(kitchen[3:5], tmp_path / "s", tolerance=0.25, **options)
    for row, clip in enumerate(store.clips):
        for name in ("frames_4", "ends"):
            asked = store.specs[name].times(clip["start"])
            expected = data.read_frames(clip["video"], asked, 40, tolerance=0.25)
            np.testing.assert_array_equal(store.read(name, row), expected)
            shown = STEADY[[number_of(picture) for picture in expected]]
            np.testing.assert_allclose(store.time_errors(name)[row], np.abs(shown - asked), atol=1e-6)
        assert store.time_errors("frames_4").max() > 0.1 and store.specs["clip"].tolerance == 0
        middle = clip["start"] + (np.arange(3) + 0.5) / 3 * CLIP
        np.testing.assert_array_equal(store.read("clip", row), data.read_frames(clip["video"], middle, 16, crop=True))
    with pytest.raises(data.DataError, match=r"tolerance was 0\.25 and is now 0\.0"):
        data.prepare(kitchen[3:5], tmp_path / "s", **options)
    with pytest.raises(data.DataError, match=r"exact=False .* leave out tolerance "):
        data.prepare(kitchen[3:5], tmp_path / "t", tolerance=0.25, exact=False, **options)


def test_clips_of_another_length(kitchen, tmp_path, monkeypatch):
    """Frames, ends and head motion are those of the longer clip, also at the end of the video."""
    last = replace(kitchen[0], id="last", start=data.probe(kitchen[0].video).duration - 1, stop=6.0)
    options = OPTIONS | {"clip_frames": 3, "clip_seconds": 3, "imu_rate": 50}
    store = data.prepare([kitchen[0], last], tmp_path / "s", **options)
    assert {spec.seconds for spec in store.specs.values()} == {3.0} and store.read("imu", [0]).shape == (1, 150, 6)
    for row in (0, len(store) - 1):
        start = store.clips[row]["start"]
        numbers = [number_of(picture) for picture in store.read("frames_4", row)]
        assert numbers == expected_numbers(STEADY, data.clip_times(start, 4, 3.0))
        seen = STEADY[expected_numbers(STEADY, data.clip_times(start, 3, 3.0))]
        np.testing.assert_allclose(store.read("clip.times", row), seen, atol=1e-3)
        np.testing.assert_allclose(store.read("ends.times", row), [start, start + 3.0], atol=1 / 24)
        window = kitchen[0].recording.motion().window(start, 150, 50.0)
        np.testing.assert_array_equal(store.read("imu", row), window)
    assert store.clips[-1]["stop"] == pytest.approx(data.probe(kitchen[0].video).duration)
    monkeypatch.setattr(data, "probe_videos", lambda *given: {})  # the end is known only when the clip is decoded
    moved = data.prepare([kitchen[0], last], tmp_path / "moved", **options)
    assert [clip["start"] for clip in moved.clips] == [clip["start"] for clip in store.clips]


def test_limits_of_the_imu_reach_every_clip(kitchen, tmp_path):
    stamps = np.arange(-1, 7, 0.08)
    pair = tuple(str(tmp_path / f"{word}.csv") for word in ("Accl", "Gyro"))
    for path, word in zip(pair, ("Accl", "Gyro"), strict=True):
        rows = np.column_stack([1000 * stamps, ramp(stamps, 1)])
        np.savetxt(path, rows, delimiter=",", header=f"Milliseconds,{word}X,{word}Y,{word}Z", comments="")
    slow = [replace(kitchen[0], imu=pair, start=1.0, stop=3.0)]
    plain = {"num_frames": (), "ends": False, "workers": 1, "progress": False}
    store = data.prepare(slow, tmp_path / "wide", max_gap=0.09, **plain)
    np.testing.assert_allclose(
        store.read("imu", 0)[:, :3], ramp(store.clips[0]["start"] + np.arange(422) / 198, 1), atol=1e-4
    )
    with pytest.raises(data.DataError, match=r"over max_gap=0\.05"):
        data.prepare(slow, tmp_path / "narrow", **plain)
    late = [replace(kitchen[0], start=5.0, stop=6.0, imu_offset=-1.2)]  # the readings end 0.2 s too early
    assert len(data.prepare(late, tmp_path / "some", min_coverage=0.5, **plain)) == 1
    with pytest.raises(data.DataError, match="95% required"):
        data.prepare(late, tmp_path / "all", **plain)


def test_class_names_keep_their_order_and_all_numbers_of_frames_are_stored(kitchen, tmp_path):
    names = ["wash", "unused", "cut", "take"]
    options = {"num_frames": (3, 1), "frame_size": 40, "sampling": ["last", "uniform"], "workers": 1, "progress": False}
    store = data.prepare(kitchen[3:6], tmp_path / "s", imu=False, class_names=names, **options)
    assert store.class_names == names
    assert [names[label] for label in store.labels] == [clip["label"] for clip in store.clips]
    assert set(store.names) == {"frames_1", "frames_3", "frames_1_last", "frames_3_last", "ends"}
    for row, clip in enumerate(store.clips):
        for name, spec in store.specs.items():
            if spec.sampling != "ends":
                numbers = expected_numbers(STEADY, spec.times(clip["start"]))
                assert [number_of(picture) for picture in store.read(name, row)] == numbers


@pytest.mark.parametrize("left_out", ["frames", "clip", "imu", "ends"])
def test_any_kind_of_array_can_be_left_out_and_the_others_stay(tmp_path, left_out):
    video = write_sound(tmp_path / "a.mp4", chirp(np.arange(5 * 16000) / 16000), 16000, pictures=150)
    imu = write_epic_imu(tmp_path, "a", 6)
    segment = data.Segment("1", video, 1.0, 3.0, "x", imu)
    every = {"num_frames": (1,), "clip_frames": 2, "imu": True, "ends": True}
    without = {"frames": {"num_frames": ()}, "clip": {"clip_frames": None}}.get(left_out, {left_out: False})
    sizes = {"frame_size": 16, "clip_size": 16, "workers": 1, "progress": False}
    store = data.prepare([segment], tmp_path / "s", **every | without, **sizes)
    names = {"frames": "frames_1", "clip": "clip", "imu": "imu", "ends": "ends"}
    assert set(store.names) == set(names.values()) - {names[left_out]}


def test_a_store_keeps_the_axes_of_its_samples(kitchen, store, tmp_path):
    """Turned ones are a GoPro's; under another name they stay as they are; two names make two stores."""
    turned = data.prepare(data.with_imu_axes(kitchen, "yXZ"), tmp_path / "turned", **OPTIONS)
    own = data.prepare(data.with_imu_axes(kitchen, "glasses"), tmp_path / "own", **OPTIONS)
    plain = store.read("imu", slice(None))
    expected = plain[:, :, [1, 0, 2, 4, 3, 5]] * np.tile([-1, 1, 1], 2)
    np.testing.assert_allclose(turned.read("imu", slice(None)), expected, atol=1e-4)
    np.testing.assert_array_equal(own.read("imu", slice(None)), plain)
    axes = [data.ClipStore(one.path).specs["imu"].imu_axes for one in (store, turned, own)]
    assert axes == ["gopro", "gopro", "glasses"]
    assert len({one.fingerprint for one in (store, turned, own)}) == 3
    with pytest.raises(DataError, match="have the axes glasses and gopro; give imu_axes"):
        data.prepare([*kitchen[:3], *data.with_imu_axes(kitchen[3:], "glasses")], tmp_path / "both", **OPTIONS)
    data.prepare([kitchen[3], *data.with_imu_axes(kitchen[4:6], "xyZ")], tmp_path / "mixed", **OPTIONS)
    with pytest.raises(DataError, match="imu_axes was 'glasses' and is now 'gopro'"):
        data.prepare(kitchen, own.path, **OPTIONS)


def test_a_store_has_the_axes_that_a_reader_of_recordings_says(kitchen, store, tmp_path, monkeypatch):
    pair = kitchen[0].imu
    readers = [lambda path: data.Recording(path, pair, imu_axes="yXZ")]
    monkeypatch.setattr(home, "READERS", readers)
    plain = [replace(segment, imu=None) for segment in kitchen[:3]]
    found = data.prepare(plain, tmp_path / "s", **OPTIONS)
    expected = store.read("imu", range(len(found)))[:, :, [1, 0, 2, 4, 3, 5]] * np.tile([-1, 1, 1], 2)
    np.testing.assert_allclose(found.read("imu", slice(None)), expected, atol=1e-4)
    assert {one.imu_axes for one in StoreFiles(found.path).segments} == {"yXZ"}
