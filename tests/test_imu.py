"""IMU recordings: tables, telemetry, windows and their coverage."""

import json
import os
import re

import numpy as np
import pytest
from heads import head
from painted import ramp, write_table

from egodistill.data import read_imu
from egodistill.imu import IMU_READERS, CoverageError, Imu, IMUError
from egodistill.world import synthetic


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
    return Imu(stamps[0], ramp(stamps[0], 1, 9.8), stamps[1], ramp(stamps[1], -3))


def test_window_is_linear_interpolation_at_real_stamps():
    window = made_imu().window(3.217)
    grid = 3.217 + np.arange(422) / 198
    assert window.shape == (422, 6) and window.dtype == np.float32
    np.testing.assert_allclose(window[:, :3], ramp(grid, 1, 9.8), atol=1e-5)
    np.testing.assert_allclose(window[:, 3:], ramp(grid, -3), atol=1e-5)
    other = made_imu().window(1.0, samples=50, rate=25)
    np.testing.assert_allclose(other[:, 0], 1 + np.arange(50) / 25 + 9.8, atol=1e-5)


@pytest.mark.parametrize("rate", [330, 400, 1000, 3300])
def test_fast_sensors_are_averaged_without_delay(rate):
    """Errors against the true signal: a slow movement passes, vibration of 170 Hz does not appear at 28 Hz."""
    rng = np.random.default_rng(rate)
    stamps = np.arange(0, 5, 1 / rate)
    stamps[1:] += rng.uniform(-0.3, 0.3, len(stamps) - 1) / rate
    grid, slow, fast = 1.0 + np.arange(422) / 198, np.pi * 2 * 4, np.pi * 2 * 170

    def window(signal):
        values = signal[:, None] * [1.0, -2.0, 0.5]
        return Imu(stamps, values, stamps, values).window(1.0)[:, 3:] / [1.0, -2.0, 0.5]

    true = np.sin(slow * grid)[:, None]
    error = window(np.sin(slow * stamps)) - true
    assert np.abs(error).max() < 0.01 and abs(np.sum(error[:, 0] * np.cos(slow * grid))) < 0.002 * len(grid)
    vibration, known = window(np.sin(fast * stamps)), np.interp(grid, stamps, np.sin(fast * stamps))
    assert vibration.std() < (0.1 if rate >= 1000 else 0.6) * known.std()
    noise = rng.normal(0, 1, len(stamps))
    assert window(noise).std() < 0.95 * np.interp(grid, stamps, noise).std()


def test_slower_sensors_are_interpolated():
    stamps = np.arange(0, 5, 1 / 290)  # below 1.5 x 198
    values = np.random.default_rng(0).normal(0, 1, (len(stamps), 3))
    window, grid = Imu(stamps, values, stamps, values).window(1.0), 1.0 + np.arange(422) / 198
    for axis in range(3):
        np.testing.assert_array_equal(window[:, axis], np.interp(grid, stamps, values[:, axis]).astype(np.float32))


def test_averages_use_the_samples_of_the_window_alone():
    """Those a step of 1/198 s away and more do not matter, so a stream may forget them; a gap is bridged."""
    stamps = np.arange(0, 5, 1 / 1000)
    values = np.random.default_rng(0).normal(0, 1, (len(stamps), 3))
    whole = Imu(stamps, values, stamps, values).window(1.0)
    near = (stamps > 1.0 - 1 / 198) & (stamps < 1.0 + 422 / 198)
    alone = Imu(stamps[near], values[near], stamps[near], values[near]).window(1.0)
    np.testing.assert_array_equal(alone, whole)
    there = (stamps < 2.0) | (stamps > 2.04)
    gap = Imu(*[x[there] for x in (stamps, ramp(stamps, 1), stamps, ramp(stamps, -3))]).window(1.0)
    np.testing.assert_allclose(gap[:, :3], ramp(1.0 + np.arange(422) / 198, 1), atol=1e-3)


@pytest.mark.parametrize("samples", [138, 163, 188, 1602])
def test_a_sample_that_rounding_puts_at_the_point_after_the_last_is_left_out(samples):
    stamps = np.arange(2 * samples + 10) / 100
    values = ramp(stamps, 2)
    window = Imu(stamps, values, stamps, values).window(0.0, samples, 50.0)
    np.testing.assert_allclose(window[:, :3], ramp(np.arange(samples) / 50, 2), rtol=1e-6, atol=1e-5)


def test_neighbours_that_share_their_only_sample_are_finite():
    """At the start of the window, a single sample before a gap lies between its first two points."""
    stamps = np.concatenate([[1.0 + 0.4 / 198], np.arange(1.03, 4, 1 / 1000)])
    values = ramp(stamps, 2)
    window = Imu(stamps, values, stamps, values).window(1.0)
    assert np.isfinite(window).all()
    np.testing.assert_allclose(window[10:, :3], ramp(1.0 + np.arange(422) / 198, 2)[10:], atol=1e-3)


def test_window_refuses_what_the_imu_does_not_cover():
    gap = made_imu(drop=[(4.0, 4.5)])
    with pytest.raises(CoverageError, match=r"accelerometer covers 76.* 3\.99\d to 4\.500 s"):
        gap.window(3.0)
    assert np.isfinite(gap.window(3.0, min_coverage=0.7)).all()
    assert np.isfinite(gap.window(3.0, max_gap=1.0)).all()
    assert np.isfinite(made_imu(drop=[(4.0, 4.09)]).window(3.0)).all()  # under 5 %
    gap.window(1.8), gap.window(4.51)  # windows beside the gap are whole
    for start in (-1.0, 8.0, 12.0, -50.0):  # over an end of the recording, and far outside
        with pytest.raises(CoverageError, match=r"no samples from"):
            gap.window(start)
    for start in (12.0, -50.0):
        with pytest.raises(CoverageError, match=r"its samples are from 0\.0 to 10\.0 s; is their clock right"):
            gap.window(start)
    gyro_gap = made_imu()
    keep = (gyro_gap.gyro_time < 4) | (gyro_gap.gyro_time > 4.5)
    gyro_gap.gyro_time, gyro_gap.gyro = gyro_gap.gyro_time[keep], gyro_gap.gyro[keep]
    with pytest.raises(CoverageError, match="gyroscope covers"):
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


def test_a_window_does_not_depend_on_the_rest_of_the_recording():
    """The same samples, alone and in front of a sparse hour: a limit in seconds decides alike."""
    stamps = np.arange(0, 4, 1 / 200)
    stamps = stamps[(stamps < 1.5) | (stamps > 1.54)]  # 8 steps
    later = np.concatenate([stamps, np.arange(4, 1000, 1 / 20)])
    alone, longer = (Imu(t, ramp(t, 1), t, ramp(t, 2)) for t in (stamps, later))
    grid = np.arange(0.5, 3.0, 0.01)
    np.testing.assert_array_equal(alone.covers(grid), longer.covers(grid))
    np.testing.assert_array_equal(alone.window(0.5), longer.window(0.5))
    assert alone.covers(grid).all() and not alone.covers(grid, max_gap=0.03).all()
    assert longer.covers(np.arange(10, 20, 0.01)).all()  # 20 Hz are just enough
    assert not longer.covers(np.arange(10, 20, 0.01), max_gap=0.04).any()
    with pytest.raises(CoverageError, match=r"its samples are 0\.050 s apart, over max_gap=0\.04"):
        longer.window(10.0, max_gap=0.04)


def test_what_is_odd_about_an_imu_file_is_noted(tmp_path):
    header = ("canonical_timestamp_ms", "gyro_x", "gyro_y", "gyro_z", "accl_x", "accl_y", "accl_z")
    rows = [(10 * i, 1, 2, 3, i, i + 1, i + 1) for i in range(100)]
    rows += [(30, 1, 2, 3, 4, 5, 5), (1e9, 1, 2, 3, 4, 5, 5), (-1500, 1, 2, 3, 4, 5, 5), (999, 1, 2, 3, "", "", "")]
    path = write_table(tmp_path / "e.csv", header, rows)
    imu = read_imu(path)
    assert len(imu.accel) == 101 and len(imu.gyro) == 102 and imu.accel_time[0] == -1.5
    inside = imu.inside(1.0)
    assert len(inside.accel) == 100 and inside.accel_time[0] == 0
    np.testing.assert_array_equal(inside.accel, imu.accel[1:])
    np.testing.assert_array_equal(inside.gyro, imu.gyro[1:])
    assert inside.notes == (*imu.notes, "1 samples are more than a second outside the video")
    assert imu.inside(2.0).gyro_time[-1] == pytest.approx(0.999) and imu.on_clock(0.6).inside(1.0).notes == imu.notes
    notes = "; ".join(imu.notes)
    for words in (
        "1 of 104 rows have no usable time",
        "not sorted",
        "1 accelerometer samples repeat",
        "1 of 104 rows have no accelerometer",
    ):
        assert words in notes
    assert (
        read_imu(write_table(tmp_path / "g.csv", header, [(10 * i, 1, 2, 3, i, 2 * i, 0) for i in range(9)])).notes
        == ()
    )


PLAIN = ("time", "ax", "ay", "az", "gx", "gy", "gz")
EGO4D = ("canonical_timestamp_ms", "accl_x", "accl_y", "accl_z", "gyro_x", "gyro_y", "gyro_z")


def test_the_bias_of_a_gyroscope_is_its_mean_where_the_head_rests():
    """Turns to one side for most of the time must not count."""
    rng, stamps = np.random.default_rng(0), np.arange(0, 90, 0.005)
    moves = (stamps % 10 > 2)[:, None]  # two seconds of rest in ten
    gyro = rng.normal(0, 0.005, (len(stamps), 3)) + moves * rng.normal(0.3, 0.4, (len(stamps), 3))
    still = rng.normal((0, 0, 9.8), 0.05, (len(stamps), 3))
    bias = np.array([0.05, -0.03, 0.01])
    motion = Imu(stamps, still, stamps, gyro + bias)
    found = motion.without_bias()
    assert np.allclose(found.gyro, gyro, atol=2e-3) and found.accel is motion.accel
    assert np.abs(motion.gyro.mean(0) - bias).min() > 0.1
    recording = synthetic.RenderedRecording("P01_101", acts=40).draw()
    (accel_time, accel), (gyro_time, gyro) = recording.head.readings(recording.duration, rng)
    offset, factor = recording.wearer.clock
    clean = recording.head.imu(offset + factor * gyro_time)[1] * recording.wearer.scale[3:]
    rendered = Imu(accel_time, accel, gyro_time, gyro + bias)
    assert np.abs((rendered.without_bias().gyro - clean).mean(0)).max() < 0.02
    short = Imu(stamps[:10000], still[:10000], stamps[:10000], gyro[:10000])
    with pytest.raises(IMUError, match="takes a minute of samples; there are 50 s"):
        short.without_bias()


@pytest.mark.parametrize(
    ("header", "factor", "words"),
    [
        (
            PLAIN,
            1e3,
            r"u.csv: its accelerometer samples are 5.05 s apart; are the times in milliseconds\? The column",
        ),
        (PLAIN, 1e6, r"5.05e\+03 s apart; are the times in microseconds\?"),
        (PLAIN, 1e9, r"u.csv: the times in column time are over eleven days"),
        (PLAIN, 100, r"0.505 s apart. The column time must be in seconds, with 5 to"),
        (
            EGO4D,
            1.0,
            r"5.05e-06 s apart; are the times in seconds\? The column canonical_timestamp_ms must",
        ),
        (EGO4D, 1e6, r"5.05 s apart; are the times in microseconds\?"),
    ],
)
def test_times_in_another_unit_are_an_error(tmp_path, header, factor, words):
    times, accel, gyro = head(20.0, rate=198.0)
    with pytest.raises(IMUError, match=words):
        read_imu(write_table(tmp_path / "u.csv", header, np.column_stack([times * factor, accel, gyro]).tolist()))


def test_missing_accelerometer_is_zero_on_request_only(tmp_path):
    header = ("canonical_timestamp_ms", "gyro_x", "gyro_y", "gyro_z", "accl_x", "accl_y", "accl_z")
    path = write_table(tmp_path / "e.csv", header, [(5 * i, i / 100, 2, 3, "", "", "") for i in range(1000)])
    with pytest.raises(IMUError, match=r"0 usable accelerometer samples in 1000 rows; with zero_accel"):
        read_imu(path)
    imu = read_imu(path, zero_accel=True)
    window = imu.window(1.0)
    assert not window[:, :3].any() and window[0, 3] == pytest.approx(2)
    assert "no accelerometer: its readings are zeros" in imu.notes


def test_a_folder_is_no_table_but_may_have_one(tmp_path):
    with pytest.raises(IMUError, match=r"a folder, not a file with IMU samples; give a file of this folder$"):
        read_imu(tmp_path)
    (tmp_path / "imu.csv").touch()  # of a Pupil Labs Neon
    with pytest.raises(IMUError, match=r"IMU samples; give .*imu\.csv$"):
        read_imu(tmp_path)


@pytest.mark.parametrize("columns", ["time,gx,gy,gz", "canonical_timestamp_ms,gyro_x,gyro_y,gyro_z"])
def test_a_table_of_a_gyroscope_alone(tmp_path, columns):
    unit = 1 if columns.startswith("time") else 1000
    path = write_table(tmp_path / "g.csv", columns.split(","), [(0.005 * k * unit, k / 100, 2, 3) for k in range(999)])
    with pytest.raises(IMUError, match=r"no accelerometer column .* in the header .*; with zero_accel .*, zeros take"):
        read_imu(path)
    imu = read_imu(path, zero_accel=True)
    assert imu.notes == ("no accelerometer: its readings are zeros",) and not imu.accel.any()
    np.testing.assert_array_equal(imu.gyro[:, 1:], np.tile([2.0, 3.0], (999, 1)))
    path.write_text(path.read_text().replace(columns, columns + ",ax", 1))  # one axis is no accelerometer
    if unit == 1:
        with pytest.raises(IMUError, match="no accelerometer column ay, az"):
            read_imu(path, zero_accel=True)


def test_epic_pair_is_sorted_and_cleaned(tmp_path):
    accel = tmp_path / "a.csv"
    accel.write_text(
        "\ufeffMilliseconds,AcclX,AcclY,AcclZ\r\n10,3,0,0\r\n-5,1,0,0\r\n0,2,0,0\r\n10,9,9,9\r\n"
        "15,nan,0,0\r\n20,,0,0\r\nNULL,7,7,7\r\n1e15,8,8,8\r\n25,5,6,7\r\n"
    )
    gyro = write_table(
        tmp_path / "g.csv", ("Milliseconds", "GyroX", "GyroY", "GyroZ"), [(0, 0.1, 0.2, 0.3), (4, 0.4, 0.5, 0.6)]
    )
    imu = read_imu((accel, gyro))
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
    imu = read_imu(write_table(tmp_path / "e.csv", header, rows))
    np.testing.assert_allclose(imu.accel_time, [0.1, 0.11])
    np.testing.assert_allclose(imu.accel, [[4, 5, 6], [10, 11, 12]])
    np.testing.assert_allclose(imu.gyro_time, [0.1, 0.105, 0.11])
    np.testing.assert_allclose(imu.gyro, [[1, 2, 3], [1, 2, 3], [7, 8, 9]])
    plain = write_table(
        tmp_path / "p.CSV",
        ("gz", "gy", "gx", "note", "time", "ax", "ay", "az"),
        [(6, 5, 4, "one", 0.5, 1, 2, 3), (6, 5, 4, "two", 0.6, 1, 2, 3)],
    )
    imu = read_imu(plain)
    np.testing.assert_allclose(imu.accel_time, [0.5, 0.6])
    np.testing.assert_allclose((imu.accel[0], imu.gyro[0]), [[1, 2, 3], [4, 5, 6]])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("t,ax,ay,az\n1,2,3,4\n", "no time column"),
        ("time,ax,ay,az,gx,gy,gz,AX\n1,2,3,4,5,6,7,8\n", "the column ax appears 2 times in the header"),
        ("time;ax;ay;az;gx;gy;gz\n1;2;3;4;5;6;7\n", "its cells are separated by ';', must be ','"),
        ("time\tax\tay\taz\n1\t2\t3\t4\n", r"its cells are separated by '\\t', must be ','"),
        ("time,ax,ay,az\n1,2,3,4\n", "no gyroscope column gx, gy, gz"),
        ("time,ax,ay,az,gx,gy,gz\n", "no samples"),
        (
            "time,ax,ay,az,gx,gy,gz\n1,2,3,4,5,6,7\n2,2,x,4,5,6,7\n",
            "line 3 is not a row of numbers: '2,2,x,4,5,6,7'; correct it",
        ),
        ("time,ax,ay,az,gx,gy,gz\n1,2,3,4,5,6,7\n2,2\n", "line 3 is not a row of numbers: '2,2'"),
        ("time,ax,ay,az,gx,gy,gz\n\n1,2,3,4,5,6,7\n2,,,NULL,5,6,7\n3,2,3,4,5,6,-\n", "line 5 is not a row"),
        ("time,ax,ay,az,gx,gy,gz\n1,,,,5,6,7\n2,,,,5,6,7\n", "0 usable accelerometer samples"),
        ("\x00\x01", "no time column"),
    ],
)
def test_imu_csv_errors_name_the_file(tmp_path, text, words):
    (tmp_path / "bad.csv").write_text(text)
    with pytest.raises(IMUError, match=f"bad.csv: .*{words}"):
        read_imu(tmp_path / "bad.csv")


def test_a_table_under_another_suffix_is_no_broken_video(tmp_path):
    for name in ("imu.txt", "imu"):
        (tmp_path / name).write_text("time,ax,ay,az,gx,gy,gz\n1,2,3,4,5,6,7\n")
        with pytest.raises(IMUError, match=rf"{name}: .*text.*rename it to end in \.csv"):
            read_imu(tmp_path / name)
    (tmp_path / "noise.mp4").write_bytes(bytes(range(256)) * 9)
    with pytest.raises(IMUError, match="no IMU"):
        read_imu(tmp_path / "noise.mp4")


def test_real_gopro_video(sample):
    imu = read_imu(sample("gopro/max-heromode.mp4"))
    assert len(imu.accel) == len(imu.gyro) == 2082
    for stamps in (imu.accel_time, imu.gyro_time):
        rate = (len(stamps) - 1) / (stamps[-1] - stamps[0])
        assert rate == pytest.approx(197.48, abs=0.01) and stamps[0] == 0
    assert np.linalg.norm(imu.accel, axis=1).mean() == pytest.approx(9.835, abs=0.001)
    np.testing.assert_allclose(imu.accel.mean(0), [-0.06, 1.31, 9.70], atol=0.005)
    table = read_imu(sample("gopro-derived/walk_imu.csv"))  # written by other code
    for name in ("accel_time", "accel", "gyro_time", "gyro"):
        np.testing.assert_allclose(getattr(imu, name), getattr(table, name), atol=1e-6)
    aria = read_imu(sample("aria-everyday/imu-right.csv"))
    assert aria.accel_time[0] == pytest.approx(-0.0373, abs=1e-4) and len(aria.gyro) == 400
    assert np.linalg.norm(aria.accel, axis=1).mean() == pytest.approx(9.78, abs=0.01)


def test_video_without_telemetry_says_no_imu(steady, sample):
    for video in (steady, sample("gopro-derived/walk_vp9_30fps.mp4")):
        with pytest.raises(IMUError, match="no IMU"):
            read_imu(video)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes with names")
def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "imu.csv")
    with pytest.raises(IMUError, match=r"imu.csv: a pipe or device, not a regular file"):
        read_imu(tmp_path / "imu.csv")


def test_a_clock_of_stretch_alone_or_offset_alone_moves_both_sensors():
    imu = Imu(np.array([1.0, 2.0]), np.ones((2, 3)), np.array([3.0, 5.0]), np.ones((2, 3)), ("a note",))
    for offset, stretch in ((0.0, 1.1), (0.5, 1.0), (-0.25, 0.9)):
        moved = imu.on_clock(offset, stretch)
        np.testing.assert_allclose(moved.accel_time, offset + stretch * np.array([1.0, 2.0]))
        np.testing.assert_allclose(moved.gyro_time, offset + stretch * np.array([3.0, 5.0]))
        assert moved.notes == ("a note",)


def test_samples_outside_of_a_video_are_counted_of_the_sensor_that_loses_most():
    stamps = np.arange(-3, 9, 0.5)
    for accel, gyro in ((stamps, stamps[8:]), (stamps[8:], stamps), (stamps, stamps[2:])):
        kept = Imu(accel, np.ones((len(accel), 3)), gyro, np.ones((len(gyro), 3))).inside(4.0)
        for before, after in ((accel, kept.accel_time), (gyro, kept.gyro_time)):
            np.testing.assert_array_equal(after, before[(before >= -1) & (before <= 5)])
        lost = max(len(accel) - len(kept.accel), len(gyro) - len(kept.gyro))
        assert kept.notes == (f"{lost} samples are more than a second outside the video",)


@pytest.mark.parametrize(("share", "noted"), [(0.03, True), (0.005, False)])
def test_fast_turns_of_one_in_a_hundred_readings_are_noted(tmp_path, share, noted):
    rng = np.random.default_rng(0)
    values = rng.normal(0, 1, (2000, 3))
    values[: round(2000 * share)] = rng.normal((0, 0, 50), 1, (round(2000 * share), 3))  # about gravity
    rows = np.column_stack([np.arange(2000) / 200, rng.normal((0, 0, 9.8), 0.1, (2000, 3)), values])
    np.savetxt(tmp_path / "a.csv", rows, delimiter=",", header="time,ax,ay,az,gx,gy,gz", comments="")
    notes = " ".join(read_imu(tmp_path / "a.csv").notes)
    high = np.percentile(np.linalg.norm(values, axis=1), 99)
    assert (f"1 % of the turn rates are above {high:.0f} rad/s" in notes) == noted


@pytest.mark.parametrize(
    ("rate", "gap", "note"),
    [
        (200, 0.0149, None),  # three usual steps
        (200, 0.0151, "the gyroscope has 1 gap of 15.1 ms; its usual step is 5 ms"),
        (1000, 0.0099, None),  # 10 ms
        (1000, 0.0101, "the gyroscope has 1 gap of 10.1 ms; its usual step is 1 ms"),
        (50, 0.0599, None),
        (50, 1.5, "the gyroscope has 1 gap of 1.50 s; its usual step is 20 ms"),
    ],
)
def test_gaps_are_noted_from_three_steps_and_ten_milliseconds_on(tmp_path, rate, gap, note):
    times = np.arange(400) / rate
    times[200:] += gap - 1 / rate
    values = np.random.default_rng(0).normal((0, 0, 9.8, 0, 0, 0), 1, (400, 6))
    table = tmp_path / "a.csv"
    np.savetxt(table, np.column_stack([times, values]), "%.7f", ",", header="time,ax,ay,az,gx,gy,gz", comments="")
    found = read_imu(table).notes
    assert sum("has 50 samples per second" in one for one in found) == (2 if rate == 50 else 0)
    notes = [one for one in found if "gyroscope" in one and "samples per second" not in one]
    bridged = "Clips are interpolated across gaps of up to max_gap (--max-gap), by default 0.05 s"
    assert notes == ([] if note is None else [f"{note}. {bridged}"])


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_sample_has_all_three_axes(tmp_path, axis):
    times = np.arange(0, 5, 0.005)
    table = np.column_stack([times, ramp(times, 1, 9.8), ramp(times, -3)])
    table[100, 1 + axis] = table[200, 4 + axis] = np.nan
    path = tmp_path / "imu.csv"
    np.savetxt(path, table, delimiter=",", header="time,ax,ay,az,gx,gy,gz", comments="")
    imu = read_imu(path)
    np.testing.assert_array_equal(imu.accel_time, np.delete(times, 100))
    np.testing.assert_array_equal(imu.gyro_time, np.delete(times, 200))
    assert np.isfinite(imu.accel).all() and np.isfinite(imu.gyro).all()


@pytest.mark.parametrize("value", [1e31, -1e39, 1e200, np.inf])
def test_a_value_that_float32_can_hardly_hold_is_no_sample(tmp_path, value):
    times = np.arange(0, 5, 0.005)
    table = np.column_stack([times, ramp(times, 1, 9.8), ramp(times, -3)])
    table[100, 2] = table[200, 6] = value
    path = tmp_path / "imu.csv"
    np.savetxt(path, table, delimiter=",", header="time,ax,ay,az,gx,gy,gz", comments="")
    imu = read_imu(path)
    assert len(imu.accel) == len(imu.gyro) == len(times) - 1
    assert "imu.csv: 1 of 1000 rows have no accelerometer" in imu.notes
    assert np.abs(imu.window(0.0, min_coverage=0.5)).max() < 100


def test_a_neon_table_and_a_gyroflow_log_are_judged_like_others(tmp_path):
    log = tmp_path / "w.gcsv"
    head = "GYROFLOW IMU LOG\norientation,XYZ\ngscale,0.001\nascale,0.001\nt,gx,gy,gz,ax,ay,az\n"
    rows = [f"{5 * k},{k},2,3,{900 + k},0,100\n" for k in range(40)]
    log.write_text(head + "".join([rows[1], rows[0], rows[0], *rows[2:]]))
    motion = read_imu(log)
    np.testing.assert_allclose(motion.gyro_time, 0.005 * np.arange(40))
    np.testing.assert_allclose(motion.accel[7], np.array([0, 0.1, 0.907]) * 9.80665)
    np.testing.assert_allclose(motion.gyro[7], [0.002, 0.003, 0.007])
    assert "not sorted by time" in motion.notes[0] and "1 samples repeat a time" in motion.notes[1]
    for scale in ("0.008", "0.00015"):  # the note of the log alone, which names the scale
        log.write_text(head.replace("ascale,0.001", f"ascale,{scale}") + "".join(rows))
        (note,) = read_imu(log).notes
        assert note.endswith("g, not about 1: is ascale right?")
    log.write_text(head.replace(",ax,ay,az", "") + "".join(",".join(row.split(",")[:4]) + "\n" for row in rows))
    with pytest.raises(IMUError, match=r"w.gcsv: no accelerometer; with zero_accel"):
        read_imu(log)
    alone = read_imu(log, zero_accel=True)
    assert not alone.accel.any() and len(alone.accel) == 40 and alone.notes[-1].startswith("no accelerometer")
    log.write_text(head + "".join(f"{1000 * k},1,2,3,900,0,100\n" for k in range(40)))
    with pytest.raises(IMUError, match=r"w.gcsv: its 40 samples are 1 s apart.*tscale"):
        read_imu(log)
    log.write_text(head + rows[0])
    with pytest.raises(IMUError, match=r"its 1 samples are 0 s apart"):
        read_imu(log)
    log.write_text(head)
    with pytest.raises(IMUError, match=r"w.gcsv: no samples below line 5"):
        read_imu(log)


def test_samples_keep_the_name_of_their_axes(tmp_path):
    motion = Imu(np.arange(3.0), np.arange(9.0).reshape(3, 3), np.arange(4.0), np.ones((4, 3)), ("a note",))
    assert motion.axes == "gopro"
    own = motion.in_axes("glasses")
    assert own.axes == own.on_clock(0.1).axes == own.inside(1.0).axes == "glasses"
    np.testing.assert_array_equal(own.accel, motion.accel)
    turned = own.in_axes("gopro", np.array([[0, 1, 0], [0, 0, 1], [1, 0, 0]]))
    np.testing.assert_array_equal(turned.accel, motion.accel[:, [1, 2, 0]])
    assert turned.axes == "gopro" and turned.notes == ("a note",) and turned.on_clock(1.0, 2.0).gyro_time[1] == 3.0


# --- formats of one's own ----------------------------------------------------------------------


@pytest.fixture
def own_format(tmp_path, monkeypatch):
    """A function that reads a log by a function of one's own, which returns a moving head with changes."""
    stamps, accel, gyro = head(10.0)
    whole = {"accel_time": stamps, "accel": accel, "gyro_time": stamps, "gyro": gyro}

    def read(changes, **options):
        made = {name: change(whole[name]) if callable(change) else change for name, change in changes.items()}

        def my_log(path):
            return Imu(**whole | made)

        monkeypatch.setitem(IMU_READERS, ".log", my_log)
        return read_imu(tmp_path / "walk.LOG", **options)

    return read


def test_a_format_of_ones_own_is_read_like_a_table(own_format, tmp_path, monkeypatch):
    stamps, accel, gyro = head(10.0)
    rows = np.column_stack([stamps, accel, gyro]).tolist()
    table = read_imu(write_table(tmp_path / "walk.csv", ["time", "ax", "ay", "az", "gx", "gy", "gz"], rows))
    found = own_format({"accel": np.ndarray.tolist, "axes": "glasses"})
    np.testing.assert_array_equal(found.window(2.0), table.window(2.0))
    assert (found.notes, found.axes) == ((), "glasses")
    noted = own_format({"gyro": np.zeros_like, "notes": "seen twice"})
    assert noted.notes == ("seen twice", "the gyroscope is zero from 0.0 to 10.0 s")
    judged = noted.on_clock(5.0)
    monkeypatch.setitem(IMU_READERS, ".log", lambda path: judged)
    assert read_imu(tmp_path / "walk.log").notes == judged.notes  # once
    without = own_format({"accel_time": [], "accel": []}, zero_accel=True)
    assert not without.accel.any() and without.notes == ("no accelerometer: its readings are zeros",)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"gyro": np.ones((5, 3))}, r"gyro_time and gyro must be .* got \[2000\] and \[5, 3\]"),
        ({"gyro": np.ones((1, 3)), "gyro_time": [0.0]}, "1 gyroscope samples, .* at least 2"),
        ({"accel_time": [], "accel": []}, "0 accelerometer samples, .*with zero_accel"),
        ({"accel": None}, r"accel_time and accel must be .* got \[2000\] and \[\]"),
        ({"accel": [["fast"] * 3] * 2000}, r"fails \(ValueError: could not convert string to float: .*'fast'"),
        ({"gyro": lambda gyro: np.where(gyro > 0.4, np.nan, gyro)}, "gyroscope readings that are not finite"),
        ({"gyro_time": lambda stamps: stamps + 1.7e9}, "gyroscope .* times beyond eleven days"),
        ({"gyro_time": lambda stamps: stamps[::-1]}, "gyroscope times that do not ascend"),
        ({"gyro_time": lambda stamps: stamps * 1e3}, r"its gyroscope samples .* in milliseconds\?"),
        ({"gyro": lambda gyro: np.rad2deg(gyro) * 3}, "in degrees per second; multiply them by 0.0174533"),
        ({"accel": lambda accel: accel / 9.80665}, "the acceleration is in g .*; multiply it"),
    ],
)
def test_what_a_format_of_ones_own_returns_is_checked(own_format, tmp_path, changes, words):
    """The error names the file, and the function, but for units, which are judged as those of any file."""
    with pytest.raises(IMUError, match=words) as found:
        own_format(changes)
    assert str(found.value).startswith(f"{tmp_path / 'walk.LOG'}: ")
    assert ("my_log()" in str(found.value)) == ("multiply" not in words)


def test_samples_are_made_of_lists_and_have_their_shapes():
    times, rows = [0.0, 0.1], [[0.0, 0.0, 9.8]] * 2
    assert Imu(times, rows, times, rows).on_clock(1.0).gyro_time.tolist() == [1.0, 1.1]
    with pytest.raises(IMUError, match=r"accel must be arrays \[n\] and \[n, 3\]; got \[2\] and \[3, 2\]"):
        Imu(times, np.transpose(rows), times, rows)


def test_a_function_of_ones_own_that_fails_is_told_with_its_line(tmp_path, monkeypatch):
    def helper(text):
        return float(text)  # the line

    def my_log(path):
        return helper("one\ntwo")

    monkeypatch.setitem(IMU_READERS, ".log", my_log)
    line = helper.__code__.co_firstlineno + 1
    where = rf"walk\.log: .*my_log\(\) fails in line {line} of test_imu\.py \(ValueError: could not .* 'one\\ntwo'\)"
    with pytest.raises(IMUError, match=where):
        read_imu(tmp_path / "walk.log")
    for suffix in ("log", ".LOG", ".a.log", None):
        with pytest.raises(IMUError, match=r"a suffix is a point and small letters"):
            IMU_READERS.update({suffix: my_log})
    monkeypatch.setitem(IMU_READERS, ".log", lambda path: (1, 2))
    with pytest.raises(IMUError, match=r"walk\.log: .*<lambda>\(\) returns tuple, not Imu"):
        read_imu(tmp_path / "walk.log")


# --- JSON lines


def json_lines(path, lines):
    path.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines))
    return path


def test_json_lines_have_one_sensor_or_both_and_other_lines_between(tmp_path):
    times = np.arange(40) / 200
    both = [{"time": t, "accel": [1, 2, 9.5], "gyro": [0.1 * t, 0, 0.2]} for t in times.tolist()]
    apart = [{k: v for k, v in one.items() if k != ("accel", "gyro")[i % 2]} for i, one in enumerate(both)]
    path = tmp_path / "walk.jsonl"
    motion = read_imu(json_lines(path, [{"log": "page"}, *both, "", {"frame": 0.1, "rgb": "AA=="}]))
    assert motion.accel_time.tolist() == motion.gyro_time.tolist() == times.tolist()
    assert motion.accel[3].tolist() == [1, 2, 9.5] and motion.gyro[3].tolist() == [0.1 * times[3], 0, 0.2]
    motion = read_imu(json_lines(path, apart))
    assert motion.gyro_time.tolist() == times[::2].tolist() and motion.accel_time.tolist() == times[1::2].tolist()
    whole = [one | {"time": round(one["time"] * 1e9)} for one in both]
    assert np.allclose(read_imu(json_lines(path, whole)).gyro_time, times)


def test_json_lines_without_accelerometer_are_read_if_asked(tmp_path):
    lines = [{"time": k / 200, "gyro": [0.1, 0.2, 0.3 * k]} for k in range(40)]
    path = json_lines(tmp_path / "walk.jsonl", lines)
    with pytest.raises(IMUError, match="0 usable accelerometer samples"):
        read_imu(path)
    motion = read_imu(path, zero_accel=True)
    assert not motion.accel.any() and motion.gyro[5, 2] == 1.5


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("oops", 'line 3 is not a sample such as {"time": 1.25'),
        ("[1, 2]", "line 3"),
        ("3", "line 3"),
        ({"time": 1.0, "accel": [1, 2], "gyro": [1, 2, 3]}, "line 3"),
        ({"time": 1.0, "accel": [1, 2, "x"]}, "line 3"),
        ({"time": "soon", "accel": [1, 2, 3]}, "line 3"),
    ],
)
def test_a_line_that_is_not_a_sample_is_named(tmp_path, line, told):
    good = [{"time": k / 200, "accel": [0, 0, 9.8], "gyro": [0.1, 0.2, 0.3 * k]} for k in range(40)]
    path = json_lines(tmp_path / "walk.jsonl", [*good[:2], line, *good[2:]])
    with pytest.raises(IMUError, match=re.escape(told)):
        read_imu(path)


def test_json_lines_without_a_sample_say_so(tmp_path):
    with pytest.raises(IMUError, match='no line has a "time"'):
        read_imu(json_lines(tmp_path / "walk.jsonl", [{"log": "page"}]))
