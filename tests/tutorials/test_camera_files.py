"""Recordings written as cameras write them: read again, by the library and byte by byte."""

import dataclasses
import shutil
import struct

import av
import camera_files
import numpy as np
import pytest

from egodistill import DataError, data, recordings
from egodistill.video import demux, open_video, video_stream


@pytest.fixture(scope="module")
def walk(wearer):
    """A rendered recording, whose two sensors have times of their own."""
    segment = data.read_epic_kitchens(wearer.annotations, wearer.root)[0]
    return segment.recording


def packets_of(video):
    with open_video(video) as container:
        stream = video_stream(container, video)
        return [(packet.pts * stream.time_base, bytes(packet)) for packet in demux(container, stream) if packet.size]


def test_a_gopro_file_has_the_pictures_the_sound_and_the_head_motion(walk, tmp_path):
    path = camera_files.write_gopro(tmp_path / "GX010001.MP4", walk)
    found = data.open_recording(path)
    assert found.imu is None and not found.motion().notes and found.probe() == walk.probe()
    assert packets_of(path) == packets_of(walk.video)
    gyro = np.stack([np.interp(found.motion().gyro_time, walk.motion().gyro_time, v) for v in walk.motion().gyro.T], 1)
    np.testing.assert_allclose(found.motion().gyro, gyro, atol=0.51 / 3755)
    accel = found.motion().window(1.0)[:, :3]
    np.testing.assert_allclose(accel.mean(0), walk.motion().window(1.0)[:, :3].mean(0), atol=0.01)


def test_its_telemetry_is_what_gopros_documents_say(tmp_path):
    """Big-endian elements of key, type, size and number; channels Y, -X, Z of integers, divided by SCAL."""
    payload = camera_files.payload(np.array([[1.0, 2.0, 3.0]]), np.array([[0.1, 0.2, 99.0]]))
    assert payload.startswith(b"DEVC\0\1") and len(payload) == 8 + struct.unpack(">H", payload[6:8])[0]
    at = payload.index(b"ACCLs\6\0\1") + 8
    assert struct.unpack(">3h", payload[at : at + 6]) == (2 * 417, -417, 3 * 417)
    at = payload.index(b"GYROs\6\0\1") + 8
    assert struct.unpack(">3h", payload[at : at + 6]) == (751, -376, 32767)  # the sensor's range ends there
    assert b"SCALs\2\0\1" + struct.pack(">h", 417) in payload and payload.count(b"ORINc\1\0\3YxZ\0") == 2
    with av.open(str(camera_files.write_telemetry(tmp_path / "a.mp4", [(0, 1000, payload)]))) as container:
        assert container.streams.data[0].metadata["handler_name"].endswith("GoPro MET")
    assert b"gpmd" in (tmp_path / "a.mp4").read_bytes()


def test_a_neon_folder_has_its_video_clock_axes_and_units(walk, tmp_path):
    folder = camera_files.write_neon(tmp_path / "neon", walk)
    found = data.open_recording(folder)
    assert (found.imu_offset, found.imu_stretch) == (0.0, pytest.approx(1.0, abs=1e-9))
    np.testing.assert_allclose(found.motion().window(1.0)[:, :3], walk.motion().window(1.0)[:, :3], atol=2e-5)
    assert recordings.check(folder).offset.seconds == pytest.approx(recordings.check(walk).offset.seconds, abs=0.005)
    rows = np.loadtxt(folder / "imu.csv", delimiter=",", skiprows=1)
    tilt = np.radians(12.0)  # gravity in the module: up and, since the camera looks further down, a little forward
    camera = walk.motion().accel[5] / 9.80665
    module = [
        -camera[0],
        np.sin(tilt) * camera[2] - np.cos(tilt) * camera[1],
        np.cos(tilt) * camera[2] + np.sin(tilt) * camera[1],
    ]
    nearest = np.abs(
        (rows[:, 0] - rows[0, 0]) / 1e9 + found.motion().accel_time[0] - walk.motion().accel_time[5]
    ).argmin()
    np.testing.assert_allclose(rows[nearest, 4:], module, atol=1e-5)


def test_a_recording_is_not_written_over_itself(walk, tmp_path):
    shutil.copy(walk.video, tmp_path / "a.mp4")
    own = dataclasses.replace(walk, video=str(tmp_path / "a.mp4"))
    before = (tmp_path / "a.mp4").read_bytes()
    with pytest.raises(DataError, match=r"a\.mp4: also an input"):
        camera_files.write_gopro(tmp_path / "a.mp4", own)
    with pytest.raises(DataError, match="holds the recording itself; give another folder"):
        camera_files.write_neon(tmp_path, own)
    assert (tmp_path / "a.mp4").read_bytes() == before and len(list(tmp_path.iterdir())) == 1
