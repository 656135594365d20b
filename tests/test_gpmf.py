"""GoPro telemetry: bytes made here, payloads of real cameras, and packets in videos."""

import os
import struct
from fractions import Fraction
from types import SimpleNamespace

import av
import numpy as np
import pytest
from camera_files import write_telemetry
from gopro import device, klv, matrix, nest, orin, shorts

from egodistill import gpmf
from egodistill.data import read_imu
from egodistill.imu import IMUError


@pytest.fixture(scope="session")
def sample(sample_data):
    """Path of a real file below the folder of small real recordings."""
    return lambda name: sample_data / name


def test_values_are_scaled():
    payload = device([(10, 20, 30)], [(100, 20, 3), (200, 40, 6), (300, 60, 9)]) + b"\0" * 12
    found = gpmf.parse(payload)
    np.testing.assert_allclose(found.accel, [[-2, 1, 3]])  # Stored as Y, -X, Z.
    np.testing.assert_allclose(found.gyro, [[-2, 1, 3], [-4, 2, 6], [-6, 3, 9]])
    assert (found.device, found.axes) == ("Test", "XYZ")


@pytest.mark.parametrize(
    ("name", "axes", "expected", "known"),
    [
        (b"Hero11", orin(b"ZXY"), [2, 3, 1], "XYZ"),
        (b"Matrix", matrix(b"ZXY", 0, -1, 0, 1, 0, 0, 0, 0, 1), [1, 3, -2], "XYZ"),  # Z, X, Y = -2nd, 1st, 3rd
        (b"Both", orin(b"XYZ") + matrix(b"XYZ", *[0] * 9), [1, 2, 3], "XYZ"),
        (b"Fusion", [], [2, -1, 3], "XYZ"),
        (b"Camera", [klv("STNM", "c", 1, b"Gyroscope (z,x,y)")], [2, 3, 1], "XYZ"),
        (b"Unknown", [], [1, 2, 3], "stored"),
    ],
)
def test_channels_are_turned_into_the_cameras_axes(name, axes, expected, known):
    found = gpmf.parse(device([(10, 20, 30)], [(100, 20, 3)], name=name, axes=axes))
    np.testing.assert_allclose(found.accel, [expected])
    np.testing.assert_allclose(found.gyro, [np.array(expected)])
    assert found.axes == known


def test_the_device_with_both_sensors_is_taken():
    foreign = nest("DEVC", nest("STRM", klv("ACCL", "s", 6, shorts(1, 1, 1))))
    found = gpmf.parse(foreign + device([(10, 20, 30)], [(0, 0, 0)]))
    np.testing.assert_allclose(found.accel, [[-2, 1, 3]])
    assert gpmf.parse(foreign) is None and gpmf.parse(b"") is None


def test_a_payload_that_is_cut_off_is_an_error_at_every_length():
    payload = device([(1, 2, 3)], [(1, 2, 3)])
    for length in range(1, len(payload)):
        with pytest.raises(gpmf.GPMFError, match="GPMF"):
            gpmf.parse(payload[:length])


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        (b"ACCLs", b"ACCLc", "not numeric"),
        (b"YxZ", b"YxY", "axes 'YxY'"),
        (b"SCALs\2\0\1\0\x0a", b"SCALs\2\0\1\0\0", r"SCAL = \[0.0\]"),
        (b"ACCLs\6\0\1", b"ACCLs\2\0\3", "1 channels"),
    ],
)
def test_broken_payloads(old, new, words):
    payload = device([(1, 2, 3)], [(1, 2, 3)])
    assert old in payload
    with pytest.raises(gpmf.GPMFError, match=words):
        gpmf.parse(payload.replace(old, new))


def test_real_payloads(sample):
    """Sample counts, mean norms and SCAL of the README; gravity points up the Z axis."""
    expected = {"hero5": (199, 399, 10.07), "hero6": (204, 204, None), "Fusion": (197, 3300, 9.64)}
    for name, (accels, gyros, norm) in expected.items():
        found = gpmf.parse(sample(f"gopro/{name}.raw").read_bytes())
        assert found.accel.shape == (accels, 3) and found.gyro.shape == (gyros, 3) and found.axes == "XYZ"
        assert norm is None or np.linalg.norm(found.accel, axis=1).mean() == pytest.approx(norm, abs=0.01)
        assert found.accel.mean(0).argmax() == 2 and found.accel.mean(0)[2] > 8.5
    both = sample("gopro/consecutive1.raw").read_bytes()
    cut = both.index(b"DEVC", 4)
    first, second = (gpmf.parse(part) for part in (both[:cut], both[cut:]))
    assert (len(first.accel), len(first.gyro), len(second.accel), len(second.gyro)) == (228, 228, 216, 216)
    # ORIN and the matrix beside it say the same.
    by_matrix = gpmf.parse(both[:cut].replace(b"ORIN", b"nirO"))
    np.testing.assert_allclose(by_matrix.accel, first.accel)
    assert gpmf.parse(sample("gopro/mp4header.raw").read_bytes()) is None
    hero5 = sample("gopro/hero5.raw").read_bytes()
    start = hero5.index(b"GYROs") + 8
    raw = np.frombuffer(hero5[start : start + 6], ">i2")
    np.testing.assert_allclose(gpmf.parse(hero5).gyro[0], raw[[1, 2, 0]] / 3755)


def test_telemetry_follows_the_packet_clock(tmp_path):
    payloads = [device([(0, 0, i)] * n, [(0, 0, i)] * n) for i, n in enumerate((200, 198, 14))]
    packets = [(0, 1000, payloads[0]), (1000, 990, payloads[1]), (1990, 1001, payloads[2])]
    with av.open(str(write_telemetry(tmp_path / "a.mp4", packets))) as container:
        imu = gpmf.read_container(container)
    np.testing.assert_allclose(imu.accel_time[:200], np.arange(200) / 200, atol=1e-9)
    # The last packet is announced for 1001 ms; its 14 samples last 14 usual steps.
    np.testing.assert_allclose(imu.accel_time[398:], 1.990 + np.arange(14) / 200, atol=1e-4)
    np.testing.assert_allclose(imu.accel[[0, 200, 411], 2], [0, 0.1, 0.2])
    renamed = write_telemetry(tmp_path / "b.mp4", packets, handler="Data")
    assert len(read_imu(renamed).accel) == 412


def test_a_broken_packet_leaves_a_gap_and_a_note(tmp_path):
    payload = device([(0, 0, 1)] * 200, [(0, 0, 1)] * 200)
    packets = [(0, 1000, payload), (1000, 1000, payload[:-8]), (2000, 1000, payload)]
    imu = read_imu(write_telemetry(tmp_path / "a.mp4", packets))
    assert len(imu.gyro) == 400 and not ((imu.gyro_time >= 1) & (imu.gyro_time < 2)).any()
    assert "at 1.000 s: GPMF is truncated" in imu.notes[0] and "telemetry" not in " ".join(imu.notes[1:])
    broken = write_telemetry(tmp_path / "b.mp4", packets[1:2])
    with pytest.raises(IMUError, match=r"b.mp4: no IMU: telemetry packet at 1.000 s: GPMF is truncated"):
        read_imu(broken)


def test_unknown_axes_are_said(tmp_path):
    payload = device([(10, 20, 30)] * 200, [(0, 0, 1)] * 200, name=b"Karma", axes=[])
    imu = read_imu(write_telemetry(tmp_path / "a.mp4", [(0, 1000, payload)]))
    np.testing.assert_allclose(imu.accel[0], [1, 2, 3])
    assert "Karma" in imu.notes[0] and "does not name its axes" in imu.notes[0]


def test_a_file_that_cannot_be_read_as_a_video(sample, tmp_path):
    video = sample("gopro/max-heromode.mp4")
    with av.open(str(video), **gpmf.OPEN_OPTIONS) as container:
        expected = gpmf.read_container(container)
    for one, other in zip(gpmf.read_video(video), expected, strict=True):
        np.testing.assert_array_equal(one, other)
    (tmp_path / "text.mp4").write_text("hello")
    for path, words, of_imu in (
        (tmp_path / "none.mp4", "no such file", "no such file"),
        (tmp_path, "a folder", "a folder, not a file with IMU samples"),
        (tmp_path / "text.mp4", "as a video", "a text file, not a video with telemetry"),
    ):
        with pytest.raises(gpmf.GPMFError, match=words):
            gpmf.read_video(path)
        with pytest.raises(IMUError, match=f"{path.name}: {of_imu}"):
            read_imu(path)


def test_a_pipe_is_no_missing_file(tmp_path):
    os.mkfifo(tmp_path / "pipe.mp4")
    with pytest.raises(gpmf.GPMFError, match="a pipe or device, not a file"):
        gpmf.read_video(tmp_path / "pipe.mp4")


def test_numbers_of_every_type():
    for kind, code, value, expected in (
        ("b", "b", -3, -3),
        ("B", "B", 253, 253),
        ("s", "h", -300, -300),
        ("S", "H", 65_000, 65_000),
        ("l", "i", -70_000, -70_000),
        ("L", "I", 4_000_000_000, 4_000_000_000),
        ("j", "q", -(2**40), -(2**40)),
        ("J", "Q", 2**63, 2**63),
        ("f", "f", 0.375, 0.375),
        ("d", "d", 0.1, 0.1),
        ("q", "i", -3 << 14, -0.75),  # fixed point: 15.16 and 31.32 bits
        ("Q", "q", 3 << 30, 0.75),
    ):
        size = struct.calcsize(code)
        found = gpmf.numbers("ABCD", kind, 2 * size, struct.pack(f">4{code}", value, 1, value, 1))
        assert found.shape == (2, 2) and found.dtype == np.float64 and (found[:, 0] == expected).all(), kind


def test_packets_without_a_usable_duration_get_the_median_step():
    starts, durations, counts = (0.0, 1.0, 2.0, 3.0, 6.0), (1.0, 1.0, 0.0, 3.0, 1.5), (100,) * 5
    found = gpmf.packet_clock(starts, durations, counts)
    usual = 0.0125  # of 0.01, 0.01, 0.03 and 0.015 s
    steps = (0.01, 0.01, usual, 0.03, usual)  # the last packet's duration differs by a fifth from the usual
    expected = [start + step * np.arange(100) for start, step in zip(starts, steps, strict=True)]
    np.testing.assert_allclose(found, np.concatenate(expected))
    near = gpmf.packet_clock((0.0, 1.0), (1.0, 1.05), (100, 100))  # the last one may differ by a tenth
    np.testing.assert_allclose(near[100:], 1.0 + 0.0105 * np.arange(100))


def test_both_sensors_of_a_late_file_are_on_the_players_clock(tmp_path):
    payloads = [device([(0, 0, i)] * 200, [(0, 0, i)] * 400) for i in range(3)]
    packets = [(1500 + 1000 * i, 1000, payload) for i, payload in enumerate(payloads)]
    video = write_telemetry(tmp_path / "late.mp4", packets)
    with av.open(str(video)) as container:
        assert container.start_time == 1_500_000
        assert gpmf.read_container(container).gyro_time[0] == 1.5
    found = gpmf.read_video(video)
    np.testing.assert_allclose(found.accel_time, np.arange(600) / 200, atol=1e-9)
    np.testing.assert_allclose(found.gyro_time, np.arange(1200) / 400, atol=1e-9)


def test_axes_are_known_only_if_those_of_both_sensors_are():
    named, plain = orin(b"XYZ"), []
    for accel, gyro in ((named, plain), (plain, named), (plain, plain), (named, named)):
        streams = [
            nest("STRM", klv("SCAL", "s", 2, shorts(1)), *axes, klv(key, "s", 6, shorts(1, 2, 3)))
            for key, axes in (("ACCL", accel), ("GYRO", gyro))
        ]
        found = gpmf.parse(nest("DEVC", klv("DVNM", "c", 1, b"Karma"), *streams))
        assert found.axes == ("XYZ" if accel and gyro else "stored")


def test_axes_are_known_only_if_every_packet_names_them(monkeypatch):
    named, plain = (device([(10, 20, 30)], [(0, 0, 1)], name=b"Karma", axes=axes) for axes in (orin(b"XYZ"), []))
    for payloads, axes in (((named, named), "XYZ"), ((named, plain), "stored"), ((plain, named), "stored")):
        packets = [(float(k), 1.0, payload) for k, payload in enumerate(payloads)]
        monkeypatch.setattr(gpmf, "packets", lambda container, packets=packets: packets)
        assert gpmf.read_container(None).axes == axes


class Streams(list):
    @property
    def data(self):
        return list(self)


class Packet(bytes):
    def __new__(cls, content, stream, pts):
        packet = super().__new__(cls, content)
        packet.stream, packet.pts, packet.duration, packet.size = stream, pts, 2, len(content)
        return packet


def test_packets_are_those_of_the_first_stream_with_telemetry():
    """Some cameras write a second one, of another device."""
    streams = Streams(SimpleNamespace(index=k, time_base=Fraction(1, 2), metadata={}) for k in range(3))
    payload = device([(10, 20, 30)], [(0, 0, 1)])
    order = ((b"no telemetry", 0), (payload, 1), (payload, 2), (payload, 1))
    found = [Packet(content, streams[k], 3 * place) for place, (content, k) in enumerate(order)]
    container = SimpleNamespace(streams=streams, demux=lambda streams: found)
    assert gpmf.packets(container) == [(1.5, 1.0, payload), (4.5, 1.0, payload)]


def test_telemetry_is_read_from_a_local_file_only(tmp_path, monkeypatch):
    """FFmpeg would read an address that stands in a playlist."""

    class Opened(Exception):
        pass

    def open_(path, **options):
        raise Opened(path, options["container_options"])

    monkeypatch.setattr(av, "open", open_)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.mp4").touch()
    with pytest.raises(Opened) as opened:
        gpmf.read_video("a.mp4")
    options = {"protocol_whitelist": "file", "format_whitelist": "mov"}
    assert opened.value.args == (str(tmp_path / "a.mp4"), options)


def test_another_format_than_mp4_is_not_opened(steady, tmp_path):
    """Nor what a playlist names, whatever it is called."""
    with av.open(steady) as before, av.open(str(tmp_path / "a.mkv"), "w") as after:
        stream = after.add_stream_from_template(before.streams.video[0])
        for packet in before.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                after.mux(packet)
    (tmp_path / "list.mp4").write_text("ffconcat version 1.0\nfile a.mkv\n")
    for name in ("a.mkv", "list.mp4"):
        with pytest.raises(gpmf.GPMFError, match="not an MP4 or MOV file, as GoPro cameras write them"):
            gpmf.read_video(tmp_path / name)
