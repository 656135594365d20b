"""Recordings whose faults are planted: gaps, blanks, lost packets, uneven times, all of them found."""

import functools
import math
import re
import shutil
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest
from heads import write_log
from painted import with_zeros, write_video
from panned import FOCAL, RATE, angle, files_of, gyroscope, pan

from egodistill import DataError, cameras, data
from egodistill.commands import cli
from egodistill.data import read_imu
from egodistill.datasets.annotations import Segment, with_imu_offsets
from egodistill.recordings import checks
from egodistill.recordings.offset import Hand, Offset, Rates, axes_of
from egodistill.video import probe
from egodistill.world import behaviour


@functools.cache
def checked(*paths: str) -> checks.Check:
    """The result for real files that several tests look at."""
    return checks.check(*paths)


def ego4d_csv(path: Path, stamps_ms, rates: np.ndarray, accel: np.ndarray | None) -> Path:
    lines = ["canonical_timestamp_ms,gyro_x,gyro_y,gyro_z,accl_x,accl_y,accl_z"]
    for i, stamp in enumerate(stamps_ms):
        cells = [stamp, *rates[i], *(("", "", "") if accel is None else accel[i])]
        lines.append(",".join(str(cell) for cell in cells))
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.mark.slow("the longest recording")
def test_check_of_a_healthy_recording(wearer):
    video, files = files_of(wearer)
    found = checks.check(video, files)
    info = probe(video)
    assert found.problem is None and found.notes == []
    assert (found.duration, found.fps, found.width, found.height) == (info.duration, info.fps, info.width, info.height)
    assert (found.codec, found.audio, found.rotation, found.variable_rate) == ("h264", True, 0, False)
    assert found.broken_packets == found.unordered_frames == found.repeated_frames == 0
    habits = behaviour.draw_wearer("P01", 0)
    assert found.accel.rate == pytest.approx(habits.rate, abs=0.1)
    assert found.gyro.rate == pytest.approx(1.0015 * habits.rate, abs=0.1)
    assert found.gyro.coverage > 0.99 and found.gyro.gaps == 0
    assert found.gravity == pytest.approx(9.81 * habits.scale[2], abs=0.52)  # three axes with a bias of up to 0.3
    assert found.imu_notes == ()
    assert found.offset.reliable and found.offset.seconds == pytest.approx(habits.clock[0], abs=0.015)
    assert [stream in found.imu for stream in ("-accl.csv", "-gyro.csv")] == [True, True]


def test_check_finds_what_is_wrong_with_the_stamps(panned, tmp_path):
    stamps, rates = gyroscope(12)
    accel = np.random.default_rng(0).normal((0, 0, 9.8), 0.1, rates.shape)
    accel[:, 1] = accel[:, 0]
    keep = (stamps < 5) | (stamps > 6.5)  # a gap of 1.5 s
    milliseconds = 1000 * (stamps[keep] - 0.3)
    milliseconds[[100, 101]] = milliseconds[[101, 100]]
    milliseconds[200] = milliseconds[199]
    milliseconds[-2:] = 9e6, 9e12  # sense for nobody, nor for read_imu
    file = ego4d_csv(tmp_path / "imu.csv", milliseconds, rates[keep], accel[keep])
    found = checks.check(panned, file)
    assert found.problem is None
    assert found.gyro.gaps == 1 and found.gyro.longest_gap == pytest.approx(1.5, abs=0.02)
    assert found.gyro.coverage == pytest.approx((12 - 1.5 - 0.3) / 12, abs=0.01)
    assert 1 / found.gyro.median_step == pytest.approx(198, abs=0.5)
    assert found.gyro.rate == pytest.approx(198 * 10.5 / 12, abs=1)  # stamps beyond the video do not count
    assert found.offset.reliable and found.offset.seconds == pytest.approx(0.3, abs=0.02)
    notes = "\n".join(found.notes)
    for words in (
        "rows are not sorted",
        "1 gyroscope samples repeat a time",
        "1 of 2079 rows have no usable time",
        "1 samples are more than a second outside",
        "gyroscope has 2 gaps of 1.51 s to 8",  # and to the time that makes no sense
        "accelerometer's X and Y are equal",
        "add +0.",
    ):
        assert words in notes


def test_check_takes_the_known_clock_into_account(panned, tmp_path):
    """Of annotations with imu_offset and imu_stretch: what is left to correct is nothing."""
    stamps, rates = gyroscope(12)
    accel = np.random.default_rng(0).normal((0, 0, 9.8), 0.1, rates.shape)
    file = ego4d_csv(tmp_path / "imu.csv", 1000 * (stamps - 0.3) / 1.02, rates, accel)
    found = checks.check(panned, file, imu_offset=0.3, imu_stretch=1.02)
    assert found.offset.reliable and abs(found.offset.seconds) < 0.01
    assert abs(found.offset.drift or 0) < 1e-3 and found.gyro.rate == pytest.approx(198, abs=0.5)


def test_offsets_of_check_are_read_back(panned, tmp_path, monkeypatch):
    """With blanks, commas and quotes in the path, given from another folder."""
    video = tmp_path / 'a "b", c .mp4 '
    shutil.copy(panned, video)
    stamps, rates = gyroscope(12)
    accel = np.random.default_rng(0).normal((0, 0, 9.8), 0.1, rates.shape)
    imu = ego4d_csv(tmp_path / "imu.csv", 1000 * (stamps - 0.3), rates, accel)
    monkeypatch.chdir(tmp_path)
    assert cli.main(["check", video.name, "--imu", "imu.csv", "--out", "o.csv"]) == 0
    for given in (video, video.name, tmp_path / ".." / tmp_path.name / video.name):
        (moved,) = with_imu_offsets([Segment("1", given, 0, 1, imu=imu)], "o.csv")
        assert moved.imu_offset == pytest.approx(0.3, abs=0.02)


def test_check_of_times_in_another_unit(panned, tmp_path):
    stamps, rates = gyroscope(12)
    accel = np.random.default_rng(0).normal((0, 0, 9.8), 0.1, rates.shape)
    found = checks.check(panned, ego4d_csv(tmp_path / "imu.csv", 1e6 * stamps, rates, accel))
    assert "apart; are the times in microseconds?" in found.problem
    found = checks.check(panned, ego4d_csv(tmp_path / "imu.csv", 1e3 * stamps - 1e6, rates, accel))
    assert "0 gyroscope samples are within its 12.0 s; their times are -1000.0 to -988.0 s" in found.problem


def test_check_names_odd_values_and_a_missing_imu(panned, tmp_path):
    stamps, rates = gyroscope(12)
    low = np.random.default_rng(0).normal((0, 0, 1.5), 0.1, rates.shape)
    low[500:] = 0
    found = checks.check(panned, ego4d_csv(tmp_path / "imu.csv", 1000 * stamps, rates, low), offset=False)
    text = "\n".join(found.notes)
    assert text.count("mean acceleration") == 1 and "is it in g, or without" in text
    assert "the accelerometer is zero from 2.5 to 12.0 s" in text
    (note,) = checks.check(panned).notes
    assert note.startswith("no IMU: no telemetry of a GoPro in the video; bring a table of its readings, NAME.csv, ")


@pytest.mark.parametrize("late", [96.0, 12.0])
def test_check_has_one_note_about_gravity(panned, tmp_path, late):
    """Also if the samples after the video's end, which `check` leaves out, decide which it is."""
    stamps, rates = gyroscope(24)
    accel = np.random.default_rng(0).normal((0, 0, 12), 0.1, rates.shape)
    accel[stamps > 12.5, 2] = late
    found = checks.check(panned, ego4d_csv(tmp_path / "imu.csv", 1000 * stamps, rates, accel), offset=False)
    (note,) = (note for note in found.notes if "acceleration" in note)
    assert ("is it in mg" in note) == (late == 96.0)


@pytest.mark.parametrize(
    ("factor", "question"),
    [(math.degrees(1), "in degrees per second? Multiply"), (math.radians(1), "in another unit than rad/s?")],
)
def test_turns_in_another_unit_are_told_by_the_picture(panned, tmp_path, factor, question):
    """Most readings are possible in rad/s, so the readings alone do not tell; a narrow lens allows for slow turns."""
    stamps, rates = gyroscope(12)
    accel, slow = np.random.default_rng(0).normal((0, 0, 9.8), 0.1, rates.shape), rates / 4
    right = checks.check(panned, ego4d_csv(tmp_path / "imu.csv", 1000 * stamps, slow, accel))
    assert right.field_of_view == pytest.approx(math.degrees(160 / FOCAL) / 4, rel=0.05)
    wrong = checks.check(panned, ego4d_csv(tmp_path / "imu.csv", 1000 * stamps, factor * slow, accel))
    assert wrong.field_of_view == pytest.approx(factor * right.field_of_view, rel=0.01)
    found = [[note for note in one.notes if "field of view" in note] for one in (right, wrong)]
    assert found[0] == [] and f"degrees: are its readings {question}" in found[1][0]


def test_check_says_whether_axes_and_clock_look_right(wearer, tmp_path):
    """Right ones, and columns in another order with a late clock; gravity is reported in the axes of the camera."""
    video, files = files_of(wearer)
    good = checks.check(video, files)
    assert good.axes.turn == "XYZ" and good.axes.reliable
    assert re.match(r"The axes look right \(fit 0\.9.*\); so does the clock \(offset [+-]0\.0", good.verdict())
    imu = read_imu(files)
    order = ego4d_csv(
        tmp_path / "imu.csv",
        1000 * (imu.gyro_time - 0.4),
        np.stack([imu.gyro[:, 1], -imu.gyro[:, 2], -imu.gyro[:, 0]], 1),
        np.stack(
            [np.interp(imu.gyro_time, imu.accel_time, imu.accel[:, k]) * s for k, s in ((1, 1), (2, -1), (0, -1))], 1
        ),
    )
    found = checks.check(video, order)
    assert found.axes.turn == "zXy" and found.axes.reliable and found.problem is None
    assert any(note.startswith("the axes are wrong: --imu-axes zXy fixes them") for note in found.notes)
    assert re.match(r"The axes are wrong: --imu-axes zXy .*; the clock is wrong: add \+0\.[34]", found.verdict())
    assert found.right_axes == "zXy" and good.right_axes is None
    half = checks.check(video, order, imu_axes="yXZ")  # a turn that is given is part of the one that is reported
    assert half.imu_axes == "yXZ" and "--imu-axes zXy fixes them" in half.verdict()
    whole = checks.check(video, order, imu_axes="zXy")
    assert whole.axes.turn == "XYZ" and whole.axes.fits["XYZ"] == pytest.approx(found.axes.fits["zXy"], abs=0.01)
    assert cli.main(["check", str(video), "--imu", str(order), "--out", str(tmp_path / "o.csv")]) == 0
    (mended,) = with_imu_offsets([Segment("1", video, 0, 1, imu=order)], tmp_path / "o.csv")
    assert mended.imu_axes == "zXy" and mended.imu_offset == pytest.approx(0.4, abs=0.05)
    assert good.mean_accel == pytest.approx(imu.accel.mean(0), abs=1e-3)
    assert found.gravity == pytest.approx(good.gravity, abs=0.02)  # its half seconds begin elsewhere
    said = [re.search(r"m/s2 \(9.81 if the unit is right.*\n.*", one.report())[0] for one in (good, found)]
    assert said[0] == said[1]


@pytest.mark.parametrize(
    ("accel", "words"),
    [
        ((0, 4.9, 8.5), "30 degrees from the picture's vertical; the camera looks 30 degrees down and leans 0 degrees"),
        ((4.9, 0, 8.5), "30 degrees from .* looks 0 degrees .* and leans 30 degrees right$"),
        ((0, -9.8, 0.5), "87 degrees from .* looks 87 degrees up .* the axes may be wrong"),
    ],
)
def test_the_report_says_where_gravity_points(panned, tmp_path, accel, words):
    stamps, rates = gyroscope(12)
    noise = np.random.default_rng(0).normal(0, 0.1, rates.shape)
    stamps, rates, noise = (
        x[(np.arange(len(stamps)) < 400) | (np.arange(len(stamps)) > 440)] for x in (stamps, rates, noise)
    )
    found = checks.check(panned, ego4d_csv(tmp_path / "imu.csv", 1000 * stamps, rates, accel + noise), offset=False)
    report = " ".join(found.report().split())
    noted = "the axes may be wrong" in " ".join(found.axes_row().split())  # where the picture cannot tell, gravity can
    assert noted == ("wrong" in words)
    assert re.search(words.removesuffix("$"), report) and re.search(r"gravity: 9\.8\d m/s2", report)
    assert "gyroscope: 194.6 samples per second, 1 gaps, the longest 0.21 s" in report
    assert found.camera[3] == pytest.approx(198, rel=1e-3)
    said = "The axes are undecided: the picture was not compared with the gyroscope"
    assert said in report and report.endswith("; so is the clock.")


def filmed(name, seconds=8.0, turn="XYZ", *, hand=1, reader="csv", device="", given="gopro", rate=200.0, clock=True):
    """The check of a made-up recording; `turn` makes its axes those of the camera, `hand` is that of its gravity."""
    rng = np.random.default_rng(len(name))
    t = np.arange(0, seconds, 1 / 25)
    turns = np.stack([angle(t, k) for k in range(3)], 1)
    shifts = turns[:, [2, 0]] * (300, -300) + rng.normal(0, 5, (len(t), 2))
    turns = (turns + rng.normal(0, 0.02, turns.shape)) @ cameras.turn_matrix(turn)
    rates = Rates(t, shifts, turns, 0 * turns, np.ones(len(t)))
    offset = Offset(0.0, 0.9, 0.2, None if clock else "it hardly turns", None, (), np.ones((2, 3)))
    return checks.Check(
        name,
        width=128,
        gyro=checks.SensorCheck(rate, 1 / rate, 1.0, 0, 0.0),
        imu_axes=given,
        offset=offset,
        axes=axes_of([rates]) if clock else None,
        rates=(rates,),
        hand=Hand(9, 1.0, 1.0, hand * 0.9),
        camera=(reader, device, given, rate),
        mean_accel=tuple(np.array([0, 0, 9.8]) @ cameras.turn_matrix(turn)),
    )


def test_a_camera_has_one_decision():
    """That of its recordings together: of halves that tell nothing, and of those without a clock."""
    short = [filmed(f"{k}.mp4", 2.0, "YZX") for k in range(3)]
    unsure = filmed("still.mp4", turn="YZX", clock=False)
    found, disagreements = checks.by_camera([*short, unsure])
    assert [one.axes_state for one in [*short, unsure]] == ["undecided"] * 4 and not disagreements
    assert [(one.axes_state, one.right_axes) for one in found] == [("wrong", "YZX")] * 4
    assert "--imu-axes YZX fixes them" in found[3].notes[-1] and "samples of 6 s of video" in found[3].verdict()
    assert "the clock is undecided: it hardly turns" in found[3].verdict()
    for other in ({"rate": 203.0}, {"given": "xyZ"}, {"device": "B"}, {"reader": "mine"}):
        apart = [*short, filmed("apart.mp4", 2.0, "YZX", **other)]
        assert [one.axes_state for one in checks.by_camera(apart)[0]] == ["wrong"] * 3 + ["undecided"]
    others = [filmed(f"{k}.mp4", 3.0) for k in range(5)]  # the rest points elsewhere, and is no more certain together
    found, disagreements = checks.by_camera([filmed("sure.mp4", turn="YZX"), *others])
    assert {one.axes_state for one in found} == {"undecided"} and len(disagreements) == 1
    assert "sure.mp4: --imu-axes YZX; 0.mp4, 1.mp4, 2.mp4 ...: undecided" in disagreements[0]
    broken = checks.Check("broken.mp4", problem="no video")
    assert checks.by_camera([broken, *short])[0][0] is broken and broken.axes_state is None


def test_recordings_of_a_camera_that_disagree_are_named():
    turned, right, short = filmed("t.mp4", turn="YZX"), filmed("right.mp4"), filmed("short.mp4", 2.0)
    mirrored = replace(filmed("m.mp4", clock=False), hand=Hand(90, 10.0, 10.0, -9.0))
    for camera, texts in (
        ((turned, right, short), ("t.mp4: --imu-axes YZX; ", "right.mp4: right as they are; ")),
        ((mirrored, short), ("m.mp4, all together: a mirror image; ", "short.mp4: no mirror image")),
    ):
        found, (sentence,) = checks.by_camera([*camera, filmed("other.mp4", rate=100.0)])
        assert all(text in sentence for text in texts) and "column imu_axes" in sentence
        assert [one.axes_state for one in found] == ["undecided"] * len(camera) + ["ok"]
        assert {one.right_axes for one in found} == {None}


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ("YXZ", "the columns X and Y are exchanged"),
        ("XYz", "the sign of column Z is turned"),
        ("XyZ", "the sign of column Y is turned"),
        ("yxZ", "two columns are exchanged or one sign is turned"),
        ("yzx", "two columns are exchanged or one sign is turned"),  # more than one step from a camera's
    ],
)
def test_a_mirror_image_is_no_turn(columns, said):
    """The picture alone would take it for one of the turns, with certainty."""
    turn = columns[0] + columns[1].swapcase() + columns[2]
    found = replace(filmed("m.mp4", turn=turn), hand=Hand(9, 1.0, 1.0, -0.9))
    accel = np.array([0, 0, 9.8]) @ cameras.turn_matrix(columns)
    found = replace(found, mean_accel=tuple(accel))
    assert replace(found, hand=Hand()).axes_state == ("ok" if turn == "XYZ" else "wrong")
    assert (found.axes_state, found.right_axes) == ("wrong", None)
    assert "a mirror image" in found.notes[-1] and found.notes[-1].endswith(f"; {said}")
    assert "correlation -0.90" in found.verdict() and "--imu-axes" not in found.verdict()
    assert "the sign" not in replace(found, mean_accel=tuple(-accel)).verdict()  # gravity would point up
    assert "two columns are exchanged or one sign" in replace(found, axes=None).verdict()


@pytest.mark.parametrize("swap", [[1, 0, 2], [2, 1, 0]])
def test_a_mirrored_table_of_real_glasses_is_told(sample, tmp_path, swap):
    video, right = sample("neon/scene_300p.mp4"), read_imu(sample("neon/imu_ego4d_columns.csv"))
    accel = np.stack([np.interp(right.gyro_time, right.accel_time, axis) for axis in right.accel.T], 1)
    table = ego4d_csv(tmp_path / "imu.csv", 1000 * right.gyro_time, right.gyro[:, swap], accel[:, swap])
    for options in ({}, {"offset": False}):
        found = checks.check(video, table, **options)
        assert found.hand.mirrored and found.axes_state == "wrong" and found.right_axes is None
        assert "a mirror image" in found.verdict()
    same = checks.check(video, sample("neon/imu_ego4d_columns.csv"), offset=False)
    assert same.hand.mirrored is False and same.axes_state == "undecided"
    assert same.camera == (".csv", "", "gopro", pytest.approx(same.gyro.rate, rel=1e-3))
    own = checks.check(video, sample("neon/imu_ego4d_columns.csv"), imu_axes="glasses")
    assert own.camera[2] == "glasses" and own.axes_state == "undecided" and "what 'glasses' are" in own.verdict()


def test_a_recording_that_tells_nothing_about_axes_says_so(sample_data, tmp_path):
    gopro = checked(str(sample_data / "gopro" / "max-heromode.mp4"))
    assert gopro.axes is None and gopro.rates
    assert re.match("The axes are undecided: in 10.5 s .* stabilises .*; so is the clock.$", gopro.verdict())
    rng = np.random.default_rng(0)
    wall = np.kron(rng.integers(0, 255, (12, 16, 3)), np.ones((8, 8, 1)))
    pictures = [np.clip(wall + rng.normal(0, 2, wall.shape), 0, 255).astype(np.uint8) for _ in range(8 * RATE)]
    stamps = np.arange(0, 8, 1 / 198)
    rates, accel = rng.normal(0, 0.01, (len(stamps), 3)), rng.normal((0, 0, 9.8), 0.05, (len(stamps), 3))
    imu = ego4d_csv(tmp_path / "imu.csv", 1000 * stamps, rates, accel)
    still = checks.check(painted(tmp_path / "still.mp4", pictures), imu)
    assert still.axes is None and "hardly turns" in still.verdict()
    assert checks.check(tmp_path / "none.mp4").verdict().startswith("Nothing to compare with the picture: ")
    assert "Nothing to compare" in checks.check(tmp_path / "still.mp4").report()


def test_check_without_accelerometer(panned, tmp_path):
    stamps, rates = gyroscope(12)
    found = checks.check(panned, ego4d_csv(tmp_path / "imu.csv", 1000 * stamps, rates, None))
    assert found.problem is None and found.accel is None and found.gravity is None
    assert "no accelerometer: its readings are zeros" in found.notes
    assert found.offset.reliable


def painted(path: Path, pictures, rate: int = RATE, **options) -> Path:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=rate, options={"crf": "10", "preset": "veryfast", **options})
        stream.height, stream.width, stream.pix_fmt = *pictures[0].shape[:2], "yuv420p"
        for picture in pictures:
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(format="yuv420p")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def test_check_sees_blank_and_frozen_pictures(tmp_path):
    rng = np.random.default_rng(0)
    pictures = [rng.integers(0, 255, (64, 80, 3), dtype=np.uint8) for _ in range(6 * RATE)]
    for i in range(RATE, 2 * RATE):  # black from 1 s to 2 s, one picture from 3 s to 4 s
        pictures[i] = np.zeros((64, 80, 3), np.uint8)
        pictures[i + 2 * RATE] = pictures[3 * RATE - 1]
    found = checks.check(painted(tmp_path / "faulty.mp4", pictures))
    (blank,), (frozen,) = found.blank, found.frozen
    assert blank == pytest.approx((1.0, 2.0 - 1 / RATE), abs=1e-6)
    assert frozen == pytest.approx((3.0, 4.0 - 1 / RATE), abs=0.1)
    assert any("blank between 1.00" in note for note in found.notes)
    assert any("frozen between 3.0" in note for note in found.notes)
    assert found.imu is None and found.gyro is None and found.problem is None


def test_key_frames_between_the_excerpts_are_looked_at(tmp_path):
    rng = np.random.default_rng(0)
    pictures = [rng.integers(0, 255, (64, 80, 3), dtype=np.uint8) for _ in range(8 * RATE)]
    pictures[3 * RATE : 5 * RATE] = [np.zeros((64, 80, 3), np.uint8)] * (2 * RATE)
    video = painted(tmp_path / "redacted.mp4", pictures, g="5")
    assert checks.check(video, excerpts=2, seconds=1, samples=0).blank == ()
    (found,) = checks.check(video, excerpts=2, seconds=1, samples=40).blank
    assert 3.0 <= found[0] < 3.4 and 4.6 < found[1] < 5.0


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("corrupted.mp4", {"broken_packets": 1, "variable_rate": False, "codec": "h264"}),
        (
            "vfr_h265_nonmonotonic.mp4",
            {"unordered_frames": 1, "variable_rate": True, "codec": "hevc", "audio": True, "width": 1376},
        ),
        ("rotate_90.mov", {"rotation": -90, "width": 568, "height": 320}),
        ("rotate_180.mov", {"rotation": -180}),
        ("av1_640x360.mkv", {"codec": "av1", "variable_rate": False, "rotation": 0}),
        ("nasa_13013_bframes_multistream.mp4", {"width": 480, "unordered_frames": 0, "streams": 2}),
        ("h265_10bit.mp4", {"codec": "hevc", "broken_packets": 0}),
        ("h264_bt709_full_range.mp4", {"fps": 30}),
        ("h265_128x128.mp4", {"fps": 10}),
        ("unordered_4frames.mov", {"width": 50}),
    ],
)
def test_check_of_real_clips(sample_data, name, expected):
    found = checked(str(sample_data / "decoder-clips" / name))
    assert found.problem is None and found.imu is None
    assert {key: getattr(found, key) for key in expected} == expected
    assert all(len(line) <= 100 for line in found.row().splitlines())


# What each sample recording is known for; nothing else may be noted.
WHITE = "the image is blank between 0.00 and 0.09 s"
KNOWN_NOTES = {
    "decoder-clips/av1_640x360.mkv": ["no IMU"],
    "decoder-clips/corrupted.mp4": ["1 broken packets", "the image is damaged between 3.10 and 4.90 s", "no IMU"],
    "decoder-clips/flipping_a_pancake.mkv": ["no IMU"],
    "decoder-clips/h264_bt709_full_range.mp4": ["no IMU"],
    "decoder-clips/h265_10bit.mp4": ["no IMU"],
    "decoder-clips/h265_128x128.mp4": ["no IMU"],
    "decoder-clips/nasa_13013_bframes_multistream.mp4": ["2 video streams: .* 480x270, is read", "no IMU"],
    "decoder-clips/rotate_180.mov": ["rotated by -180 degrees", "no IMU"],
    "decoder-clips/rotate_90.mov": ["rotated by -90 degrees", "no IMU"],
    "decoder-clips/unordered_4frames.mov": [WHITE, "no IMU"],
    "decoder-clips/vfr_h265_nonmonotonic.mp4": ["variable frame rate", "1 frames out of order", "no IMU"],
    "gopro/max-heromode.mp4": ["no reliable offset: .* the camera stabilises the image"],
    "gopro-derived/walk_vp9_30fps.mp4 gopro-derived/walk_imu.csv": ["no reliable offset: .* stabilises the image"],
    "aria-vrs/recording_rgb_by_vrs_to_mp4.mp4": ["no IMU"],
    # Axes of the sensors.
    "aria-everyday/rgb.mp4 aria-everyday/imu-left.csv": [
        "accelerometer: covers 90",
        "gyroscope: covers 90",
        "too few",
        "gravity is 83 degrees .* the axes may be wrong",
    ],
    "aria-everyday/rgb.mp4 aria-everyday/imu-right.csv": [
        "accelerometer: covers 90",
        "gyroscope: covers 90",
        "too few",
        "gravity is 65 degrees .* the axes may be wrong",
    ],
    # Axes of the module: right, forward, up.
    "neon/scene_300p.mp4 neon/imu_ego4d_columns.csv": ["the axes are wrong: --imu-axes xyZ fixes them"],
}


@pytest.mark.parametrize("names", KNOWN_NOTES)
def test_check_notes_what_is_known_of_the_samples_and_nothing_else(sample, names):
    found = checked(*map(sample, names.split()))
    assert found.problem is None and found.holes == ()
    assert len(found.notes) == len(KNOWN_NOTES[names]), found.notes
    for note, pattern in zip(found.notes, KNOWN_NOTES[names], strict=True):
        assert re.search(pattern, note)


def test_zeros_in_a_film_of_a_gopro_are_noted_with_the_times_of_the_ten_wrong_frames(sample, tmp_path):
    video = sample("gopro/max-heromode.mp4")
    damaged = with_zeros(video, tmp_path / "walk.mp4", 160, 2000, 3000)
    before, after = (checked(str(one)) for one in (video, damaged))
    assert before.damaged == ()
    assert after.damaged == (pytest.approx((160 / 29.97, 169 / 29.97), abs=0.01),)
    assert set(after.notes) - set(before.notes) == {"the image is damaged between 5.34 and 5.64 s"}


@pytest.mark.parametrize("name", ["jump.mkv", "jump.ts", "jump.mp4"])
def test_check_finds_a_hole_between_its_excerpts(name, tmp_path):
    """An hour in a transport stream; twenty seconds elsewhere."""
    late = 3600 if name.endswith("ts") else 20
    times = np.arange(300) / 25 + np.where(np.arange(300) < 100, 0, late)
    pictures = np.random.default_rng(0).integers(0, 255, (300, 48, 64, 3), dtype=np.uint8)
    video = write_video(tmp_path / name, times, pictures=pictures, bf=0, g=10, crf=30, preset="ultrafast")
    found = checks.check(video, excerpts=2, seconds=1.0, samples=0)
    assert found.holes == (pytest.approx((3.96, 4.0 + late), abs=2e-3),)
    assert any(note == f"there is no frame between 3.96 and {4 + late}.00 s" for note in found.notes)


def test_check_and_prepare_note_gaps_too_short_to_cost_a_clip(panned, tmp_path):
    stamps, rates = gyroscope(12)
    lost = np.isin(np.arange(len(stamps)), [500, 501, 502, 900, 901, 902, 903, 904])  # 20 and 30 ms
    accel = np.tile([0.1, 0.2, 9.8], (len(rates), 1)) + np.random.default_rng(0).normal(0, 0.1, rates.shape)
    file = ego4d_csv(tmp_path / "imu.csv", 1000 * stamps[~lost], rates[~lost], accel[~lost])
    found = checks.check(panned, file)
    assert (found.gyro.gaps, found.accel.gaps) == (0, 0)  # those that a clip is not interpolated across
    assert sum("has 2 gaps of 20.2 ms to 30.3 ms; its usual step is 5.05 ms" in note for note in found.notes) == 2
    segments = [Segment("a", str(panned), 1.0, 9.0, "x", str(file))]
    store = data.prepare(segments, tmp_path / "s", frame_size=32, workers=1, progress=False)
    assert len(store) == 4 and "2 gaps of 20.2 ms to 30.3 ms" in store.notes[str(file)][0]
    with pytest.raises(DataError, match=r"2 of 4 clips .* covers 99\.1% .* \(99\.5% required"):
        data.prepare(
            segments, tmp_path / "t", max_gap=0.015, min_coverage=0.995, frame_size=32, workers=1, progress=False
        )


def test_check_of_a_gopro_video(sample_data):
    found = checked(str(sample_data / "gopro" / "max-heromode.mp4"))
    assert found.problem is None and found.imu == "telemetry" and found.audio
    assert found.gyro.rate == pytest.approx(197.48, abs=0.05) and found.gyro.coverage > 0.99
    assert found.gravity == pytest.approx(9.79, abs=0.01)
    assert found.camera == ("", "GoPro Max", "gopro", pytest.approx(197.48, abs=0.05)) and found.hand.mirrored is False
    assert found.keyframe_every == pytest.approx(10 * 1001 / 30000, abs=0.01)  # 32 key frames in 315
    assert found.imu_notes == ()


def without_pictures(video, out):
    """A transport stream whose packets hold no pictures, so that nothing says how large they are."""
    with av.open(str(video)) as source, av.open(str(out), "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(source.streams.video[0]):
            if packet.dts is not None:
                empty = av.Packet(b"\0\0\0\1\x09\xf0" + bytes(200))  # a delimiter
                empty.pts, empty.dts, empty.time_base, empty.stream = packet.pts, packet.dts, packet.time_base, stream
                target.mux(empty)
    return out


def test_check_never_raises(sample_data, panned, tmp_path):
    gopro = (sample_data / "gopro" / "max-heromode.mp4").read_bytes()
    (tmp_path / "zero.mp4").write_bytes(b"")
    (tmp_path / "cut.mp4").write_bytes(gopro[: len(gopro) // 2])
    (tmp_path / "text.mp4").write_text("not a video\n" * 100)
    (tmp_path / "bad.csv").write_text("time,gx\n0,1\n")
    cases = [
        (tmp_path / "zero.mp4", None, "0 bytes"),
        (tmp_path / "cut.mp4", None, "cannot be opened"),
        (tmp_path / "text.mp4", None, "cannot be opened"),
        (tmp_path, None, "a folder"),
        (tmp_path / "none.mp4", None, "no such file"),
        (sample_data / "gopro" / "hero5.raw", None, "It is not a video"),
        (without_pictures(panned, tmp_path / "empty.ts"), None, "its frames have no size"),
        (panned, tmp_path / "bad.csv", "no gyroscope column gy, gz"),
        (panned, tmp_path / "none.csv", "cannot be read"),
        (panned, panned, "no telemetry"),
        (panned, tmp_path, "a folder"),
    ]
    for video, imu, words in cases:
        found = checks.check(video, imu)
        assert words in found.problem, found.problem
        assert words in " ".join(found.row().split())
        assert all(len(line) <= 100 or " " not in line.strip() for line in found.row().splitlines())


def test_a_file_cut_off_behind_its_index(panned, tmp_path):
    whole = tmp_path / "whole.mp4"
    with av.open(str(panned)) as source, av.open(str(whole), "w", options={"movflags": "faststart"}) as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(source.streams.video[0]):
            if packet.dts is not None:
                packet.stream = stream
                target.mux(packet)
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    found = checks.check(cut, seconds=3)
    assert found.duration == pytest.approx(12) and 3 < found.last_frame < 9
    assert any("truncated" in note for note in found.notes)
    assert not any("cut off" in note for note in checks.check(whole, seconds=3).notes)


def test_no_option_is_broken_at_its_hyphens(tmp_path):
    found = replace(checks.check(tmp_path / "none.mp4"), problem=f"{'x' * 84} --imu-offset")
    assert "    --imu-offset" in found.row().splitlines()


def test_rows_stand_under_their_header(wearer):
    video, files = files_of(wearer)
    row = checks.check(video, files).row()
    assert "\n" not in row and len(row) <= 100
    assert len(checks.HEADER) <= 100
    values = dict(zip(checks.HEADER.replace("IMU Hz", "IMU").split(), row.split(), strict=True))
    assert values["file"] == "P01_101.MP4" and values["picture"] == "96x96"
    assert values["IMU"] == f"{1.0015 * behaviour.draw_wearer('P01', 0).rate:.1f}"
    assert values["codec"] == "h264" and float(values["corr"]) > 0.9
    assert checks.HEADER.index("codec") == row.index(" h264")
    for seconds, text in ((119.97, " 2:00.0 "), (59.94, " 0:59.9 "), (3599.96, " 60:00.0 ")):
        assert text in checks.Check("a.mp4", duration=seconds, fps=25.0, width=8, height=8).row()


# --- Values that are not the usual ones


def test_numbers_of_the_sensors_are_those_of_their_stamps(panned, tmp_path):
    """Stamps from before the video to after it, a gap, and a camera that turns over: by hand."""
    stamps = np.arange(-0.8, 12.8, 1 / 180)
    for start, stop in ((2.0, 2.04), (3.0, 4.2), (6.0, 6.06), (8.0, 8.3)):  # the first is not yet a gap
        stamps = stamps[(stamps <= start) | (stamps >= stop)]
    rates = np.random.default_rng(0).normal(0, 0.3, (len(stamps), 3))
    accel = 9.7 * np.stack([np.sin(stamps), 0 * stamps, np.cos(stamps)], 1)
    found = checks.check(panned, ego4d_csv(tmp_path / "imu.csv", 1000 * stamps, rates, accel), offset=False)
    steps = np.diff(stamps)
    gaps = steps[steps > 0.05]
    assert len(gaps) == 3
    for sensor in (found.accel, found.gyro):
        assert sensor.rate == pytest.approx(1 / steps.mean(), rel=1e-9)
        assert sensor.median_step == pytest.approx(1 / 180, rel=1e-6)
        assert (sensor.gaps, sensor.longest_gap) == (3, pytest.approx(steps.max(), rel=1e-6))
        assert sensor.coverage == pytest.approx((12 - gaps.sum()) / 12, rel=1e-6)
    turning = 9.7 * np.sinc(0.25 / np.pi)  # the mean of half a second, in which it turns by 0.5 rad
    assert found.gravity == pytest.approx(turning, rel=1e-3) and found.offset is found.no_offset is None


def test_the_search_goes_as_far_as_it_is_told(panned, tmp_path):
    stamps, rates = gyroscope(12)
    accel = np.random.default_rng(0).normal((0, 0, 9.8), 0.1, rates.shape)
    file = ego4d_csv(tmp_path / "imu.csv", 1000 * (stamps - 0.3), rates, accel)
    found = checks.check(panned, file, max_offset=0.2)
    assert found.offset.seconds == pytest.approx(0.2, abs=0.005) and "edge of the searched" in found.offset.reason
    far = ego4d_csv(tmp_path / "far.csv", 1000 * (stamps - 2.6), rates, accel)
    assert checks.check(panned, far, max_offset=3).offset.seconds == pytest.approx(2.6, abs=0.02)


def test_the_known_clock_of_annotations_reaches_the_check(panned, tmp_path, capsys):
    stamps, rates = gyroscope(12)
    accel = np.random.default_rng(0).normal((0, 0, 9.8), 0.1, rates.shape)
    ego4d_csv(tmp_path / "imu.csv", 1000 * (stamps - 0.3) / 1.02, rates, accel)
    shutil.copy(panned, tmp_path / "pan.mp4")
    table = tmp_path / "t.csv"
    table.write_text("video,start,stop,label,imu,imu_offset,imu_stretch\npan.mp4,0,2,x,imu.csv,0.5,1.02\n")
    assert cli.main(["check", str(table), "--out", str(tmp_path / "o.csv")]) == 0
    (moved,) = with_imu_offsets([Segment("1", tmp_path / "pan.mp4", 0, 1, imu_offset=0.5)], tmp_path / "o.csv")
    assert moved.imu_offset == pytest.approx(0.3, abs=0.02)  # what is left is -0.2


def test_key_frames_at_uneven_distances_have_a_median(tmp_path):
    rng = np.random.default_rng(0)
    pictures = [rng.integers(0, 255, (64, 80, 3), dtype=np.uint8) for _ in range(130)]
    video = tmp_path / "uneven.mp4"
    with av.open(str(video), "w") as container:
        stream = container.add_stream("libx264", rate=RATE, options={"g": "1000", "x264-params": "scenecut=0"})
        stream.height, stream.width, stream.pix_fmt = 64, 80, "yuv420p"
        for number, picture in enumerate(pictures):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(format="yuv420p")
            frame.pict_type = av.video.frame.PictureType.I if number in (0, 5, 10, 20, 120) else 0
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    found = checks.check(video)
    assert found.keyframe_every == pytest.approx(np.median([5, 5, 10, 100]) / RATE)


def test_the_growth_of_an_offset_is_that_over_the_whole_video(tmp_path):
    video = pan(tmp_path / "long.mp4", np.arange(20 * RATE) / RATE)
    stamps, rates = gyroscope(20)
    accel = np.random.default_rng(0).normal((0, 0, 9.8), 0.1, rates.shape)
    file = ego4d_csv(tmp_path / "imu.csv", 1000 * (stamps - 0.2) / 1.008, rates, accel)
    found = checks.check(video, file, excerpts=4, seconds=4)
    (note,) = [note for note in found.notes if "grows by" in note]
    assert float(note.split("by ")[1].split(" s")[0]) == pytest.approx(0.008 * 20, abs=0.03)


def sensor(**changes):
    usual = {"rate": 200.0, "median_step": 0.005, "coverage": 1.0, "gaps": 0, "longest_gap": 0.0}
    return checks.SensorCheck(**usual | changes)


def clock(seconds=0.0, reason=None, drift=None, pixels=0.0):
    return Offset(seconds, 0.9, 0.3, reason, drift, (), np.array([[0.0, 0, pixels], [-pixels, 0, 0]]))


def leaning(degrees):
    down = math.radians(degrees)
    accel = (0.0, 9.81 * math.sin(down), 9.81 * math.cos(down))
    return {"gravity": 9.81, "mean_accel": accel, "gyro": sensor()}


def wide(degrees, reason=None):
    return {"width": 640, "offset": clock(0.0, reason, None, 640 / math.radians(degrees))}


@pytest.mark.parametrize(
    ("changes", "note"),
    [
        ({"rotation": 90}, "frames are stored rotated by 90 degrees"),
        ({"broken_packets": 2}, "2 broken packets in the decoded excerpts"),
        ({"unordered_frames": 3}, "3 frames out of order in the decoded excerpts"),
        ({"repeated_frames": 4}, "4 frames with the time of another one in the decoded excerpts"),
        ({"last_frame": 99.6}, None),
        ({"last_frame": 99.4}, "no frame after 99.40 s: the file may be truncated"),
        (
            {"blank": ((1.0, 2.0), (3.0, 4.0), (6.0, 7.0))},
            "the image is blank between 1.00 and 2.00 s, and 2 more times",
        ),
        ({"frozen": ((1.0, 2.0),)}, "the image is frozen between 1.00 and 2.00 s"),
        ({"holes": ((1.0, 3.5),)}, "there is no frame between 1.00 and 3.50 s"),
        ({"gyro": sensor(gaps=2, longest_gap=0.34)}, None),  # Imu.notes counts them
        ({"streams": 1}, None),
        ({"streams": 3, "width": 8, "height": 4}, "3 video streams: the one that players show, 8x4, is read"),
        ({"accel": sensor(coverage=0.981)}, None),
        ({"accel": sensor(coverage=0.979)}, "accelerometer: covers 97.9% of the video"),
        ({"gyro": sensor(rate=192.0)}, None),
        ({"gyro": sensor(rate=188.0)}, "gyroscope: 188.0 samples per second, but the median step is 1/200.0 s"),
        ({"gyro": sensor(rate=212.0)}, "gyroscope: 212.0 samples per second, but the median step is 1/200.0 s"),
        ({"gravity": 1.0, "imu_notes": ("mean acceleration 1.00 m/s2, but",)}, "mean acceleration 1.00 m/s2, but"),
        (leaning(59), None),
        (
            leaning(61),
            "the axes are undecided: the picture was not compared with the gyroscope; gravity is 61 degrees from the "
            "picture's vertical; a worn camera seldom leans so far, so the axes may be wrong",
        ),
        (leaning(61) | {"imu_axes": "glasses"}, None),
        ({"offset": clock(0.049)}, None),
        ({"offset": clock(-0.051)}, "add -0.051 s to the IMU's time stamps"),
        ({"offset": clock(0.3, "too still")}, "no reliable offset: too still"),
        ({"offset": clock(0.0, None, 0.0004)}, None),
        ({"offset": clock(0.0, None, -0.0006)}, "the offset grows by -0.06 s from start to end"),
        ({"offset": clock(0.0, "too still", 0.01)}, "no reliable offset: too still"),
        (wide(4.1), None),
        (
            wide(3.9),
            "the gyroscope implies a field of view of 3.9 degrees: are its readings in another unit than rad/s?",
        ),
        (wide(990), None),
        (wide(1500, reason="too still"), "no reliable offset: too still"),
        (
            wide(1500),
            "the gyroscope implies a field of view of 1,500 degrees: are its readings in degrees per second? Multiply "
            "them by 0.0174533 for rad/s",
        ),
        ({"no_offset": "too few frames"}, "no offset: too few frames"),
        (
            {"imu": None},
            "no IMU: no telemetry of a GoPro in the video; bring a table of its readings, NAME.csv, give imu (--imu), "
            "or for another camera (Insta360, Sony, DJI) a function (--imu-reader), as the guide shows under 'A camera "
            "or an IMU format'",
        ),
        ({"variable_rate": True}, "variable frame rate: select frames by time, never by number"),
    ],
)
def test_notes_begin_where_their_limits_say(changes, note):
    found = checks.Check("a.mp4", **{"duration": 100.0, "imu": "a.csv", "last_frame": 100.0} | changes)
    assert found.notes == ([] if note is None else [note])


@pytest.mark.parametrize(("rotation", "degrees"), [(None, 40), (0, 40), (180, 40), (-180, 40), (90, 20), (-90, 20)])
def test_the_field_of_view_is_that_of_the_upright_picture(rotation, degrees):
    found = checks.Check("a.mp4", **wide(40) | {"height": 320, "rotation": rotation})
    assert found.field_of_view == pytest.approx(degrees)


def test_head_motion_alone_is_checked_without_a_picture(tmp_path, capsys):
    """Rates and gaps, and the sentences about units; clock and heading are not told."""
    found = checks.check(None, write_log(tmp_path / "log.csv", begin=500.0, rate=100.0, seconds=20.0))
    assert (found.problem, found.path, found.fps) == (None, str(tmp_path / "log.csv"), None)
    assert found.duration == pytest.approx(19.99) and found.gyro.rate == pytest.approx(100)
    assert (found.gyro.coverage, found.gyro.gaps, found.accel.coverage) == (pytest.approx(1), 0, pytest.approx(1))
    assert found.notes == ["no offset: there is no picture, and only one tells clock and heading"]
    assert found.axes_state == "undecided" and found.right_axes is None
    assert found.verdict() == (
        "The axes are undecided: there is no picture, and only one tells clock and heading; so is the clock."
    )
    assert "vertical" not in found.report() and "gravity: 9.8" in found.report()
    lines = (tmp_path / "log.csv").read_text().splitlines(keepends=True)
    (tmp_path / "gap.csv").write_text("".join([*lines[:500], *lines[700:]]))
    assert (gap := checks.check(None, tmp_path / "gap.csv")).gyro.gaps == 1
    assert any("gyroscope: covers 8" in note and note.endswith("% of the recording") for note in gap.notes)
    for options, sentence in (
        ({"gyro_unit": 180 / np.pi}, "degrees per second"),
        ({"accel_unit": 1 / 9.80665}, "acceleration is in g"),
        ({"gravity": False}, "without gravity"),
    ):
        other = checks.check(None, write_log(tmp_path / "other.csv", rate=100.0, seconds=20.0, **options))
        assert any(sentence in text for text in [other.problem or "", *other.notes]), (options, other.notes)
    assert cli.main(["check", "--imu", str(tmp_path / "log.csv"), "--out", str(tmp_path / "o.csv")]) == 0
    assert capsys.readouterr().out.count("there is no picture") == 1 and (tmp_path / "o.csv").exists()
    assert cli.main(["check"]) != 0
    assert "an IMU without a video as imu (--imu)" in capsys.readouterr().err
