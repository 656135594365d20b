"""IMU logs of other cameras: files made here in their formats, and real ones."""

import ast
import itertools
import time

import numpy as np
import pytest

from egodistill import cameras, data, imu
from egodistill.cameras import CameraError, axes_and_turn, read_gyroflow, read_neon, turn_matrix, turn_text
from egodistill.recordings import sensors

HEAD = {"version": "1.3", "orientation": "XYZ", "tscale": "0.001", "gscale": "0.01", "ascale": "0.001"}


def write_log(path, rows, first="GYROFLOW IMU LOG", columns="t,gx,gy,gz,ax,ay,az", **fields):
    """Write a .gcsv; a field that is None is left out."""
    header = [f"{key},{value}" for key, value in (HEAD | fields).items() if value is not None]
    path.write_text("\n".join([first, *header, columns, *rows]) + "\n")
    return path


ROWS = ["0,1,2,3,300,400,900", "5,4,5,6,300,400,900"]


@pytest.mark.parametrize(
    ("orientation", "gyro"),
    [  # Gyroflow's axes are up, left, back: GoPro's are its second, third, first
        ("XYZ", (2, 3, 1)),
        ("YxZ", (-1, 3, 2)),
        ("zXy", (1, -2, -3)),
        (None, (-3, 2, -1)),  # without the key: xzY
    ],
)
def test_orientation_of_a_gyroflow_log(tmp_path, orientation, gyro):
    log = read_gyroflow(write_log(tmp_path / "a.gcsv", ROWS, orientation=orientation))
    np.testing.assert_allclose(log.gyro[0], np.array(gyro) * 0.01)
    raw = np.array([0.3, 0.4, 0.9]) * cameras.GRAVITY
    np.testing.assert_allclose(log.accel[0], np.sign(gyro) * raw[np.abs(gyro) - 1])
    np.testing.assert_allclose(log.times, [0, 0.005])
    assert log.notes == []


def test_careless_writers_of_gyroflow_logs(tmp_path):
    path = tmp_path / "a.gcsv"
    path.write_text(
        "CAMERA IMU LOG\n  version:1.3\n sample_rate, 200\n\ngscale, 1e-3\nASCALE,0.00980665\n T, gx,gy,gz,ax,ay,az\n"
        "0,1,2,3,300,400,900\n\n5,4,5,6,300,400,900\n"
    )
    log = read_gyroflow(path)  # an ascale for m/s2, no tscale, spaces, an unknown key, an empty row
    np.testing.assert_allclose(log.times, [0, 0.005])
    np.testing.assert_allclose(np.linalg.norm(log.accel, axis=1), np.linalg.norm([0.3, 0.4, 0.9]) * cameras.GRAVITY)
    assert log.notes == ["its ascale gives m/s2 and not g, which is what was read"]
    (note,) = read_gyroflow(write_log(path, ROWS, ascale="0.002")).notes
    assert "2.06 g, not about 1: is ascale right?" in note
    three = [row.rsplit(",", 3)[0] for row in ROWS]
    alone = read_gyroflow(write_log(path, three, columns="t,gx,gy,gz", ascale=None))
    assert alone.accel is None and alone.gyro.shape == (2, 3)


def test_the_time_of_a_gyroflow_log_by_either_name(tmp_path):
    """Gyroflow's own reader takes both names; above the columns, "time" may also be a key."""
    named = write_log(tmp_path / "a.gcsv", ROWS, columns=" TIME, gx,gy,gz,ax,ay,az", time="12:30", t="5")
    np.testing.assert_allclose(read_gyroflow(named).times, [0, 0.005])
    with pytest.raises(CameraError, match=r"a\.gcsv: no line 't,gx,gy,gz,ax,ay,az' above the samples"):
        read_gyroflow(write_log(tmp_path / "a.gcsv", ROWS, columns="time,12:30"))


@pytest.mark.parametrize(
    ("changes", "rows", "words"),
    [
        ({"first": "my log"}, ROWS, "line 1 is not 'GYROFLOW IMU LOG'"),
        ({"columns": "1,2,3"}, ROWS, "no line 't,gx,gy,gz,ax,ay,az' above the samples"),
        ({"columns": "t,gx,gy"}, ROWS, "line 7 has no column gz"),
        ({"gscale": None}, ROWS, "no line 'gscale,FACTOR' above the samples: the unit of the gyroscope"),
        ({"ascale": None}, ROWS, "no line 'ascale,FACTOR' above the samples: the unit of the accelerometer"),
        ({"ascale": "big"}, ROWS, "line 6: ascale must be a number other than 0, not 'big'"),
        ({"tscale": "nan"}, ROWS, "line 4: tscale must be a number"),
        ({"orientation": "adjust it yourself"}, ROWS, "line 3: the orientation 'adjust it yourself' does not say"),
        ({"orientation": "XXY"}, ROWS, "line 3: the orientation 'XXY' does not say"),
        ({}, [], "no samples below line 7"),
        ({}, [*ROWS, "10,1,2"], "line 10 is not a row of numbers: '10,1,2'; correct it or delete it"),
        ({}, [ROWS[0], "", "5,x,2,3,4,5,6"], "line 10 is not a row of numbers"),
        ({}, [ROWS[0], "5,nan,2,3,4,5,6"], "line 9 is not a row of numbers"),
        ({}, [ROWS[0], "5,1e45,2,3,4,5,6"], "line 9 is not a row of numbers"),  # windows are float32
        ({}, [ROWS[0], "1644159993000,1,2,3,4,5,6"], "line 9: the time 1644159993 s is over eleven days.*not UTC"),
        ({}, [ROWS[0], "", "1644159993000,1,2,3,4,5,6"], "line 10: the time 1644159993 s is over eleven days.*not UTC"),
    ],
)
def test_a_gyroflow_log_that_cannot_be_used_is_one_sentence_with_its_line(tmp_path, changes, rows, words):
    with pytest.raises(CameraError, match=rf"a\.gcsv: {words}"):
        read_gyroflow(write_log(tmp_path / "a.gcsv", rows, **changes))


def test_files_that_are_no_text(tmp_path):
    (tmp_path / "b.gcsv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(CameraError, match=r"b\.gcsv: not a UTF-8 text file"):
        read_gyroflow(tmp_path / "b.gcsv")
    with pytest.raises(CameraError, match="a folder, not a regular file"):
        read_gyroflow(tmp_path)
    with pytest.raises(CameraError, match=r"c\.gcsv: cannot be read: No such file"):
        read_gyroflow(tmp_path / "c.gcsv")


NEON = ["timestamp [ns]", *(f"gyro {a} [deg/s]" for a in "xyz"), *(f"acceleration {a} [g]" for a in "xyz")]
START = 1728546108163313160


def write_neon(folder, rows, header=NEON, frames=(START, START + 33_000_000)):
    """Write the two tables of a Neon recording."""
    folder.mkdir(exist_ok=True)
    lines = [",".join(header), *(",".join(map(str, row)) for row in rows)]
    (folder / "imu.csv").write_text("\n".join(lines) + "\n")
    if frames is not None:
        (folder / "world_timestamps.csv").write_text("\n".join(["timestamp [ns]", *map(str, frames)]) + "\n")
    return folder / "imu.csv"


def test_units_axes_and_clock_of_a_neon_table(tmp_path):
    axes = [(90, 0, 0, 1, 0, 0), (0, 90, 0, 0, 1, 0), (0, 0, 90, 0, 0, 1)]
    rows = [(START + 10_000_000 * k + 123, *values) for k, values in enumerate(axes)]
    for header in (NEON, [name.replace("[g]", "[G]").title() for name in NEON]):
        log = read_neon(write_neon(tmp_path / "n", rows, header))
        np.testing.assert_allclose(log.times, [1.23e-7, 0.010000123, 0.020000123], atol=1e-12)  # 1 ns counts
        cos, sin = np.cos(np.deg2rad(12)), np.sin(np.deg2rad(12))
        turn = np.array([[-1, 0, 0], [0, -cos, sin], [0, sin, cos]])  # its columns are x, y, z of the module
        np.testing.assert_allclose(log.gyro, np.pi / 2 * turn.T, atol=1e-12)
        np.testing.assert_allclose(log.accel, 9.80665 * turn.T, atol=1e-12)
    motion = data.read_imu(tmp_path / "n" / "imu.csv")
    np.testing.assert_array_equal(motion.gyro, log.gyro)


@pytest.mark.parametrize(
    ("seconds", "told"), [(-30, "-30.0 to -29.0"), (5.5, "5.5 to 6.5"), (86400, "86400.0 to 86401.0")]
)
def test_a_neon_table_of_another_recording_is_refused(tmp_path, seconds, told):
    rows = [(START + round((seconds + k / 10) * 1e9), 1, 2, 3, 0, 0, 1) for k in range(11)]
    frames = (START, START + 5 * 10**9)
    with pytest.raises(
        CameraError, match=rf"imu\.csv: .* from {told} s .* end at 5\.0 s, so it is of another recording"
    ):
        read_neon(write_neon(tmp_path / "n", rows, frames=frames))
    for start in (-0.5, 4.9):  # one sample is enough to be of this one
        read_neon(
            write_neon(
                tmp_path / "n", [(one[0] + round((start - seconds) * 1e9), *one[1:]) for one in rows], frames=frames
            )
        )


def test_a_neon_table_that_cannot_be_used_is_one_sentence(tmp_path):
    rows = [(START, 1, 2, 3, 0, 0, 1)]
    with pytest.raises(CameraError, match=r"world_timestamps\.csv: cannot be read"):
        read_neon(write_neon(tmp_path / "a", rows, frames=None))
    with pytest.raises(CameraError, match=r"world_timestamps\.csv: no samples below line 1"):
        read_neon(write_neon(tmp_path / "b", rows, frames=()))
    with pytest.raises(CameraError, match=r"imu\.csv: line 1 has no column acceleration z \[g\]"):
        read_neon(write_neon(tmp_path / "c", rows, NEON[:-1]))
    with pytest.raises(CameraError, match=r"imu\.csv: line 3 is not a row of numbers"):
        read_neon(write_neon(tmp_path / "d", [*rows, ("", 1, 2, 3, 0, 0, 1)]))
    with pytest.raises(CameraError, match="line 1 has no column timestamp"):
        cameras.frame_stamps(write_neon(tmp_path / "e", rows, ["section id", *NEON[1:]]))


def test_real_logs(sample_data):
    head = read_gyroflow(sample_data / "gcsv" / "docs_example_head.gcsv")
    raw = np.rad2deg(head.gyro[0])[[0, 2, 1]] * [-1, 1, 1]  # x, y, z of the file
    np.testing.assert_allclose(raw, [2.73, 6.02, 12.81], atol=0.005)
    neon, reference = (data.read_imu(sample_data / "neon" / name) for name in ("imu.csv", "imu_ego4d_columns.csv"))
    assert (head.device, neon.device, reference.device) == ("custom_logger_name", "Neon", "")
    assert len(neon.accel) == 539 and 1 / neon.median_steps[0] == pytest.approx(114.4, abs=0.1)
    np.testing.assert_allclose(neon.accel.mean(0), [0.93, 3.03, 9.49], atol=0.005)
    np.testing.assert_allclose(neon.gyro_time, reference.gyro_time, atol=1e-6)
    np.testing.assert_allclose(*(np.linalg.norm(one.gyro, axis=1) for one in (neon, reference)), atol=1e-5)
    assert np.linalg.norm(neon.accel, axis=1).mean() / cameras.GRAVITY == pytest.approx(1.021, abs=0.002)


def test_the_rate_of_a_real_neon_is_the_mean(sample_data, tmp_path):
    """Its steps are 8.0 and 10.6 ms, the latter more often: 104 samples per second, of which 99 are enough."""
    folder = sample_data / "neon" / "demo_recording"
    kind = np.dtype(ast.literal_eval((folder / "imu.dtype").read_text()))
    raw = np.fromfile(folder / "imu ps1.raw", kind)
    values = [raw[f"{name}_{axis}"] for name in ("gyro", "accel") for axis in "xyz"]
    rows = zip(raw["timestamp_ns"].tolist(), *values, strict=True)
    motion = data.read_imu(write_neon(tmp_path / "n", rows, frames=raw["timestamp_ns"][[50, -1]].tolist()))
    assert 1 / np.diff(motion.gyro_time).mean() == pytest.approx(103.5, abs=0.1) and motion.notes == ()
    found = sensors.motion_states(motion, rate=300.0)
    assert [state.text.split(";")[0] for state in found] == [
        f"the {sensor} has 104 samples per second" for sensor in ("accelerometer", "gyroscope")
    ]


def test_turns_and_their_texts():
    """24 of the 48 signed orders of axes are turns; a text and its matrix are one."""
    texts = [
        "".join(letters)
        for order in itertools.permutations("XYZ")
        for letters in itertools.product(*((one, one.lower()) for one in order))
    ]
    turns = [text for text in texts if np.linalg.det(turn_matrix(text)) > 0]
    assert len(texts) == 48 and len(turns) == 24
    assert [turn_text(turn_matrix(text)) for text in texts] == texts
    np.testing.assert_array_equal(np.array([[1.0, 2.0, 3.0]]) @ turn_matrix("zXy").T, [[-3.0, 1.0, -2.0]])
    for text in texts:
        if text in turns:
            assert axes_and_turn(text)[0] == "gopro"
        else:
            with pytest.raises(CameraError, match=f"{text!r} mirrors"):
                axes_and_turn(text)
    assert axes_and_turn("gopro") == axes_and_turn("GoPro") == ("gopro", None)
    assert axes_and_turn("meta-glasses_1.0") == ("meta-glasses_1.0", None)
    for text in ("zz", "xYzX", "two words", "", None):
        with pytest.raises(CameraError, match="axes must be 'gopro', a name"):
            axes_and_turn(text)


def test_a_video_of_another_camera_names_the_section_of_the_guide(steady):
    with pytest.raises(
        imu.IMUError,
        match=rf"^{steady}: no IMU: no telemetry .*; give a table of its readings beside it, steady\.csv; for .*"
        r"\(Insta360, Sony, DJI\), give IMU_READERS a function .* under 'A camera or an IMU format'$",
    ):
        data.read_imu(steady)
    with pytest.raises(imu.IMUError, match=r"^gone.insv: no such file$"):
        data.read_imu("gone.insv")


def test_a_header_of_blanks_takes_no_time(tmp_path):
    for blanks in (" " * 200_000, "note," + " " * 200_000 + "x" + "\t" * 200_000):
        log = write_log(tmp_path / "a.gcsv", ["0,0,0,100,2048,0,0", "5,0,0,100,2048,0,0"])
        log.write_text(log.read_text().replace("\n", f"\n{blanks}\n", 1))
        began = time.process_time()
        assert len(read_gyroflow(log).times) == 2
        assert time.process_time() - began < 2


def test_a_log_that_is_too_large_is_not_read(tmp_path):
    with open(tmp_path / "a.gcsv", "wb") as file:
        file.truncate(1 << 31)
    with pytest.raises(CameraError, match=r"a.gcsv: 2,147 MB, more than the 1,074 MB of a log"):
        read_gyroflow(tmp_path / "a.gcsv")
