"""Read the accelerometer and gyroscope of GoPro videos (GPMF; HERO5 to HERO11, MAX, Fusion). Needs only PyAV and numpy.

    import gpmf     # or: from egodistill import gpmf

    motion = gpmf.read_video("GH010001.MP4")
    print(motion.device, motion.axes, motion.accel.shape, motion.gyro_time[:3])

A GoPro writes its telemetry as a data stream of the MP4, about one packet per second. A packet is a tree of elements:
key, type, size and repeat, then the data, all big-endian (https://github.com/gopro/gpmf-parser describes it). `parse()`
turns the bytes of a packet into physical values, `read_container()` the packets of an opened video into samples with
times.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import av
import av.container
import av.error
import av.logging
import av.stream
import numpy as np

__all__ = ["GPMFError", "Payload", "Telemetry", "packets", "parse", "read_container", "read_video", "streams"]


class GPMFError(ValueError):
    """Telemetry that is truncated or broken, or contains no accelerometer and gyroscope."""


class Payload(NamedTuple):
    """The values of one packet.

    Attributes:
        accel: Accelerometer, float64 [n, 3] in m/s2.
        gyro: Gyroscope, float64 [m, 3] in rad/s.
        device: The camera's name.
        axes: Axes of the columns. "XYZ" are the camera's own: X to the left as seen from behind, Y out of the back to
            the user, Z up (a camera held still and upright reads +9.8 on Z). "stored" if nothing names the channels.
    """

    accel: np.ndarray
    gyro: np.ndarray
    device: str
    axes: str


class Telemetry(NamedTuple):
    """A whole recording: times, in seconds on the container's clock, and values of both sensors.

    Attributes:
        accel_time: Times of the accelerometer's samples, [n].
        accel: As in `Payload`, for all packets.
        gyro_time: Times of the gyroscope's samples, [m].
        gyro: As in `Payload`, for all packets.
        device: As in `Payload`.
        axes: As in `Payload`.
        broken: Time and reason of each packet that could not be read.
    """

    accel_time: np.ndarray
    accel: np.ndarray
    gyro_time: np.ndarray
    gyro: np.ndarray
    device: str
    axes: str
    broken: list[str]


# --- A packet's bytes -> physical values -----------------------------------------------------------------------

NUMBERS = {
    "b": "i1",
    "B": "u1",
    "s": ">i2",
    "S": ">u2",
    "l": ">i4",
    "L": ">u4",
    "j": ">i8",
    "J": ">u8",
    "f": ">f4",
    "d": ">f8",
    "q": ">i4",
    "Q": ">i8",
}
FIXED_POINT = {"q": 2.0**16, "Q": 2.0**32}
TREE = "\0"  # the type of an element that contains elements


def parse(payload: bytes) -> Payload | None:
    """Read one packet: both sensors of the first device that has both, or None if no device has.

    Skip unknown keys. Raise GPMFError for a truncated or broken packet.

    Args:
        payload: The packet's bytes.
    """
    for key, kind, _, device in elements(payload):
        if key != "DEVC" or kind != TREE:
            continue
        name, sensors = "", {}
        for key, kind, _, content in elements(device):
            if key == "DVNM":
                name = text(content)
            elif key == "STRM" and kind == TREE:
                stream = {key: rest for key, *rest in elements(content)}
                sensors |= {sensor: stream for sensor in ("ACCL", "GYRO") if sensor in stream}
        if len(sensors) == 2:
            (accel, axes), (gyro, others) = (values_of(key, sensors[key], name) for key in ("ACCL", "GYRO"))
            return Payload(accel, gyro, name, axes if axes == others else "stored")
    return None


def elements(data: bytes) -> Iterator[tuple[str, str, int, bytes]]:
    """Yield key, type, structure size and data of each element on one level. Raise GPMFError if one is cut off."""
    at = 0
    while at < len(data):
        if not any(data[at : at + 4]):
            return  # Zero bytes may follow the last element.
        if at + 8 > len(data):
            raise GPMFError(f"GPMF is truncated: {len(data) - at} bytes left for a header of 8")
        key, kind, size, repeat = struct.unpack_from(">4scBH", data, at)
        length = size * repeat
        if at + 8 + length > len(data):
            raise GPMFError(f"GPMF is truncated: {key!r} announces {length} bytes, {len(data) - at - 8} are left")
        yield key.decode("latin-1"), kind.decode("latin-1"), size, data[at + 8 : at + 8 + length]
        at += 8 + (length + 3) // 4 * 4


def text(content: bytes) -> str:
    return content.decode("latin-1").strip("\0 ")


def values_of(key: str, stream: dict[str, list], device: str) -> tuple[np.ndarray, str]:
    """Return a sensor's values [n, 3] in physical units and their axes, "XYZ" or "stored".

    Raise GPMFError unless the stream has three channels and a usable scale.
    """
    values = numbers(key, *stream[key])
    if values.shape[1] != 3:
        raise GPMFError(f"GPMF {key} has {values.shape[1]} channels, not 3")
    if "SCAL" in stream:
        scale = numbers("SCAL", *stream["SCAL"]).reshape(-1)
        if len(scale) not in (1, 3) or not scale.all():
            raise GPMFError(f"GPMF {key} has the unusable scale SCAL = {scale.tolist()}")
        values = values / scale
    turn = channels_to_camera(key, stream, device)
    return (values, "stored") if turn is None else (values @ turn.T, "XYZ")


def channels_to_camera(key: str, stream: dict[str, list], device: str) -> np.ndarray | None:
    """Return the matrix [3, 3] from stored channels to camera axes, or None if the axes are unknown.

    ORIN names each channel: letter = camera axis, lower case = negative. MTRX maps the channels to the order that ORIO
    names. Cameras without either describe their channels in words; the Fusion's words are wrong. Raise GPMFError for
    broken elements.
    """
    if "ORIN" in stream:
        return permutation(key, text(stream["ORIN"][2]))
    if "MTRX" in stream and "ORIO" in stream:
        matrix = numbers("MTRX", *stream["MTRX"])
        if matrix.size != 9:
            raise GPMFError(f"GPMF {key} has a matrix of {matrix.size} numbers instead of 9")
        return permutation(key, text(stream["ORIO"][2])) @ matrix.reshape(3, 3)
    if device == "Fusion":
        return permutation(key, "yXZ")
    words = text(stream["STNM"][2]).lower() if "STNM" in stream else ""
    if "up/down, right/left, forw" in words or "(z,x,y)" in words:  # HERO5, and HERO6 with early firmware
        return permutation(key, "ZXY")
    return None


def permutation(key: str, axes: str) -> np.ndarray:
    """Return the signed permutation [3, 3] that sorts channels named by letters, such as 'YxZ', into X, Y, Z.

    Raise GPMFError for other letters.
    """
    if sorted(axes.upper()) != ["X", "Y", "Z"]:
        raise GPMFError(f"GPMF {key} has the axes {axes!r} instead of X, Y and Z")
    turn = np.zeros((3, 3))
    for channel, axis in enumerate(axes):
        turn["XYZ".index(axis.upper()), channel] = 1 if axis.isupper() else -1
    return turn


def numbers(key: str, kind: str, size: int, data: bytes) -> np.ndarray:
    """Return an element's numbers, float64 [repeat, channels]. Raise GPMFError for a type that is not numeric."""
    if kind not in NUMBERS or not size or size % np.dtype(NUMBERS[kind]).itemsize:
        raise GPMFError(f"GPMF {key} has type {kind!r} of size {size}, which is not numeric")
    found = np.frombuffer(data, NUMBERS[kind]).astype(np.float64)
    return found.reshape(-1, size // np.dtype(NUMBERS[kind]).itemsize) / FIXED_POINT.get(kind, 1.0)


# --- A video's packets -> samples with times -------------------------------------------------------------------


# No addresses, and no playlists or lists of files, which would read other files: GoPro cameras write MP4.
LOCAL_FILES = {"protocol_whitelist": "file", "format_whitelist": "mov"}
# Titles and the like that are not UTF-8 must not make a video unreadable. PyAV 19 always keeps their bytes as surrogate
# escapes, and removed this argument.
OPEN_OPTIONS = {"metadata_errors": "ignore"} if int(av.__version__.split(".")[0]) < 19 else {}


def read_video(video: str | os.PathLike) -> Telemetry:
    """Read the accelerometer and gyroscope of a GoPro video, with times on the clock that a player shows.

    Like `read_container()`, but times count from the start of the file. Raise GPMFError also for a file that cannot be
    opened.

    Args:
        video: The file.
    """
    path = Path(video)
    if not path.is_file():
        kind = "a folder" if path.is_dir() else "a pipe or device" if path.exists() else ""
        raise GPMFError(f"{kind}, not a file" if kind else "no such file")
    # torchvision up to 0.25 enables PyAV's logging when it is imported. Decoder threads then need the interpreter lock
    # to log, and can deadlock.
    av.logging.set_level(None)
    try:
        with av.open(os.path.abspath(path), container_options=LOCAL_FILES, **OPEN_OPTIONS) as container:
            zero = max(0.0, (container.start_time or 0) / 1e6)
            found = read_container(container)
    except av.error.ArgumentError as error:  # FFmpeg's answer for another format
        raise GPMFError("not an MP4 or MOV file, as GoPro cameras write them") from error
    except av.error.FFmpegError as error:
        raise GPMFError(f"not readable as a video: {error.strerror}") from error
    return found._replace(accel_time=found.accel_time - zero, gyro_time=found.gyro_time - zero)


def read_container(container: av.container.InputContainer) -> Telemetry:
    """Read the accelerometer and gyroscope of an opened GoPro video.

    No sampling rate is stored, so a packet's samples are spread evenly over its duration (1 to 5 ms late compared with
    the STMP of newer cameras). A broken packet leaves a gap and an entry in `broken`. Raise GPMFError if there is no
    readable telemetry of both sensors.

    Args:
        container: The video, opened by PyAV. It is read to its end.
    """
    good, broken = [], []
    for start, duration, payload in packets(container):
        try:
            parsed = parse(payload)
        except GPMFError as error:
            broken.append(f"telemetry packet at {start:.3f} s: {error}")
            continue
        if parsed is not None:
            good.append((start, duration, parsed))
    if not good:
        raise GPMFError("; ".join(broken[:1]) or "no telemetry with accelerometer and gyroscope")
    starts, durations, payloads = zip(*good, strict=True)
    sensors = []
    for name in ("accel", "gyro"):
        values = [getattr(payload, name) for payload in payloads]
        stamps = packet_clock(starts, durations, [len(v) for v in values])
        stamps, chosen = np.unique(stamps, return_index=True)
        sensors += [stamps, np.concatenate(values)[chosen]]
    axes = "XYZ" if all(payload.axes == "XYZ" for payload in payloads) else "stored"
    return Telemetry(*sensors, payloads[0].device, axes, broken)


def streams(container: av.container.InputContainer) -> list[av.stream.Stream]:
    """Return the streams that may hold GPMF: those with GoPro's name, or all data streams if programs renamed them.

    The list is empty if there is no data stream.

    Args:
        container: A video, opened by PyAV.
    """
    candidates: list[av.stream.Stream] = list(container.streams.data)
    return [s for s in candidates if "GoPro MET" in s.metadata.get("handler_name", "")] or candidates


def packets(container: av.container.InputContainer) -> list[tuple[float, float, bytes]]:
    """Return start, duration (s, on the container's clock) and bytes of each packet of the first GPMF stream.

    The list is empty if there is none.

    Args:
        container: A video, opened by PyAV. It is read to its end.
    """
    candidates = streams(container)
    for other in container.streams:  # Gigabytes of video separate the telemetry packets; PyAV can skip it from 18 on.
        if other not in candidates and hasattr(other, "discard"):
            other.discard = av.stream.Discard.all
    chosen, found = None, []
    for packet in container.demux(candidates) if candidates else ():
        if packet.pts is not None and packet.size >= 8 and bytes(packet)[:4] == b"DEVC":
            chosen = packet.stream.index if chosen is None else chosen
            if packet.stream.index == chosen:
                base = packet.stream.time_base
                found.append((float(packet.pts * base), float((packet.duration or 0) * base), bytes(packet)))
    return found


def packet_clock(starts: Sequence[float], durations: Sequence[float], counts: Sequence[int]) -> np.ndarray:
    """Return the times of all samples, those of a packet evenly spread over its duration."""
    steps = [d / n if n and d else np.nan for d, n in zip(durations, counts, strict=True)]
    usual = (
        np.nanmedian(steps) if np.isfinite(steps).any() else 1 / 200
    )  # the documented rate of these cameras is 200 Hz
    # The last packet's stated duration may be far longer than that of its samples.
    if not abs(steps[-1] / usual - 1) <= 0.1:
        steps[-1] = usual
    times = [
        start + np.arange(n) * (step if np.isfinite(step) else usual)
        for start, step, n in zip(starts, steps, counts, strict=True)
    ]
    return np.concatenate(times)
