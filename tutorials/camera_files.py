"""Write a recording as a camera would: a GoPro's MP4 with telemetry, the folder of a Pupil Labs Neon.

    import camera_files
    from egodistill import data

    recording = data.open_recording("world/P30/videos/P30_101.MP4", ("accl.csv", "gyro.csv"))
    camera_files.write_gopro("GX010101.MP4", recording)     # no table beside it: the IMU is inside
    camera_files.write_neon("neon", recording)              # scene.mp4, imu.csv, world_timestamps.csv

So that everyone has such files, of the rendered world for example, to try the library with or to test other readers.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import struct
from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from egodistill.cameras import FRAME_TIMES, GRAVITY, NEON_AXES, NEON_READINGS, NEON_TIME
from egodistill.gpmf import TREE, permutation
from egodistill.imu import Imu
from egodistill.recordings.recording import Recording
from egodistill.support import files
from egodistill.support.errors import DataError
from egodistill.support.names import is_same
from egodistill.video import clock_zero, demux, open_video, video_stream

__all__ = ["neon_tables", "write_gopro", "write_neon", "write_telemetry"]

GOPRO_RATE = 200  # samples per second, one packet per second
GOPRO_SENSORS = {"ACCL": ("Accelerometer", 417), "GYRO": ("Gyroscope", 3755)}  # name, and numbers per m/s2 or rad/s
GOPRO_AXES = "YxZ"  # axes of the stored channels, as HERO6 and later cameras write them; small: negative
NEON_START = 1_728_546_108_000_000_000  # ns, UTC: when the scene camera begins


def write_gopro(path: str | os.PathLike, recording: Recording) -> Path:
    """Write a recording as a GoPro does, with the readings of its IMU inside the MP4; return the path.

    Picture and sound are copied. Both sensors are interpolated at 200 samples per second, across gaps, too, and stored
    as integers.

    Args:
        path: The file to write; a file of this name is replaced. DataError for a file of the recording itself.
        recording: The recording; its times become those of the new file.
    """
    files.require_apart(path, recording.files)
    times, accel, gyro = on_one_clock(recording.motion(), GOPRO_RATE)
    parts = [slice(k, k + GOPRO_RATE) for k in range(0, len(times), GOPRO_RATE)]
    packets = [(round(1000 * times[part][0]), 5 * len(times[part]), payload(accel[part], gyro[part])) for part in parts]
    return write_telemetry(path, packets, recording.video)


def on_one_clock(motion: Imu, rate: float | None = None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return times from 0 on that both sensors cover and their readings then, [n] and twice [n, 3].

    The times have this rate, or are those of the accelerometer.
    """
    first = max(0.0, motion.accel_time[0], motion.gyro_time[0])
    last = min(motion.accel_time[-1], motion.gyro_time[-1])
    times = motion.accel_time if rate is None else np.arange(np.ceil(rate * first), rate * last) / rate
    times = times[(times >= first) & (times <= last)]
    sensors = ((motion.accel_time, motion.accel), (motion.gyro_time, motion.gyro))
    accel, gyro = (np.stack([np.interp(times, t, axis) for axis in values.T], axis=1) for t, values in sensors)
    return times, accel, gyro


def payload(accel: np.ndarray, gyro: np.ndarray) -> bytes:
    """Return a packet of telemetry with these readings [n, 3], in m/s2 and rad/s."""
    content = element("DVID", "L", 4, struct.pack(">L", 1)) + element("DVNM", "c", 1, b"rendered")
    for (key, (name, scale)), values in zip(GOPRO_SENSORS.items(), (accel, gyro), strict=True):
        numbers = np.clip(np.round(scale * values @ permutation(key, GOPRO_AXES)), -32768, 32767).astype(">i2")
        sensor = element("STNM", "c", 1, name.encode()) + element("SCAL", "s", 2, struct.pack(">h", scale))
        sensor += element("ORIN", "c", 1, GOPRO_AXES.encode()) + element(key, "s", 6, numbers.tobytes())
        content += element("STRM", TREE, 1, sensor)
    return element("DEVC", TREE, 1, content)


def element(key: str, kind: str, size: int, content: bytes) -> bytes:
    """Return an element of GPMF: key, type, size of a structure, their number, and the data, padded to 4 bytes."""
    head = key.encode() + struct.pack(">cBH", kind.encode(), size, len(content) // size)
    return head + content + bytes(-len(content) % 4)


def write_telemetry(
    path: str | os.PathLike,
    packets: Iterable[tuple[int, int, bytes]],
    video: str | os.PathLike | None = None,
    handler: str = "\tGoPro MET",
) -> Path:
    """Write an MP4 with packets of telemetry in a track of its own; return the path.

    Args:
        path: The file to write; a file of this name is replaced.
        packets: Start and duration in milliseconds, and bytes, of each packet.
        video: A video whose picture and sound are copied; None: the file has nothing but telemetry.
        handler: The track's name. GoPro's begins with the length of the rest.
    """
    source = contextlib.nullcontext() if video is None else open_video(video)
    with files.atomic_write(path) as part, av.open(str(part), "w", format="mp4") as out, source as shot:
        copied = [] if shot is None else [*shot.streams.video[:1], *shot.streams.audio[:1]]
        tracks = {stream.index: out.add_stream_from_template(stream) for stream in copied}
        telemetry = out.add_data_stream("bin_data")
        telemetry.metadata["handler_name"], telemetry.time_base = handler, Fraction(1, 1000)
        for start, duration, content in packets:
            packet = av.Packet(content)
            packet.stream, packet.time_base = telemetry, Fraction(1, 1000)
            packet.pts = packet.dts = start
            packet.duration = duration
            out.mux(packet)
        for packet in demux(shot, *copied) if copied else ():
            if packet.dts is not None:
                packet.stream = tracks[packet.stream.index]
                out.mux(packet)
    return Path(path)


def write_neon(folder: str | os.PathLike, recording: Recording) -> Path:
    """Write a recording as Pupil Cloud exports that of a Neon, the files scene.mp4, imu.csv and world_timestamps.csv.

    Return the folder, which is created if it does not exist. The video is copied; the axes of the readings become those
    of the module in the glasses, their units g and degrees per second.

    Args:
        folder: The folder to write into; files of these names are replaced. DataError for the recording's own folder.
        recording: The recording; its times become those of the new one.
    """
    if any(is_same(folder, Path(file).parent) for file in recording.files):
        raise DataError(f"{folder}: holds the recording itself; give another folder")
    with open_video(recording.video) as container:
        stream = video_stream(container, recording.video)
        shown = sorted(packet.pts for packet in demux(container, stream) if packet.pts is not None)
        frames = np.array(shown) * float(stream.time_base) - clock_zero(container)
    with files.atomic_write(Path(folder, "scene.mp4")) as part:
        shutil.copyfile(recording.video, part)
    return neon_tables(folder, frames, *on_one_clock(recording.motion()))


def neon_tables(
    folder: str | os.PathLike, frames: np.ndarray, times: np.ndarray, accel: np.ndarray, gyro: np.ndarray
) -> Path:
    """Write the two tables of a Neon recording; return the folder.

    Args:
        folder: The folder to write into.
        frames: Times of the frames of its scene video in seconds, [f].
        times: Times of the samples on the same clock, [n].
        accel: Accelerometer in m/s2, [n, 3], in the axes of the scene camera, X to the left, Y to the user, Z up.
        gyro: Gyroscope in rad/s, [n, 3], in these axes.
    """
    module = np.concatenate([np.degrees(gyro) @ NEON_AXES, accel @ NEON_AXES / GRAVITY], axis=1)
    stamps = [NEON_START + round(1e9 * t) for t in times.tolist()]
    with files.atomic_write(Path(folder, "imu.csv")) as part, open(part, "w", encoding="utf-8") as file:
        file.write(",".join([NEON_TIME, *NEON_READINGS]) + "\n")
        file.writelines(f"{t},{','.join(f'{x:.6f}' for x in row)}\n" for t, row in zip(stamps, module, strict=True))
    with files.atomic_write(Path(folder, FRAME_TIMES)) as part, open(part, "w", encoding="utf-8") as file:
        file.write(f"{NEON_TIME}\n")
        file.writelines(f"{NEON_START + round(1e9 * t)}\n" for t in frames.tolist())
    return Path(folder)
